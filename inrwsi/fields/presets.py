"""Named shapes of encoding and network, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inrwsi.fields.encodings import HashEncoding, HashGridConfig
from inrwsi.fields.networks import DualFlowConfig, FieldNet, Layers, dual_flow_layers, relu_layers


@dataclass(frozen=True)
class Preset:
    """A model of one field.

    Attributes:
        encoding: shape of the hash grid.
        network: the layers on the grid's features.
        value_bits: bits in which each table entry and each weight is kept.
        source: where the numbers come from.
    """

    encoding: HashGridConfig
    network: Layers
    value_bits: int
    source: str

    def build(self, device: torch.device | str) -> tuple[HashEncoding, FieldNet]:
        """The modules, float32, at their initial values; on the device "meta" they have shapes alone."""
        with torch.device(device):
            return HashEncoding(self.encoding), FieldNet(self.network)


PAPER_ENCODING = HashGridConfig(levels=24, features=2, log2_table=24, base_resolution=4, per_level_scale=1.5)
PADDED_OUTPUTS = 16  # to which tiny-cuda-nn pads an MLP's three

PRESETS = {
    "cinr": Preset(
        PAPER_ENCODING,
        dual_flow_layers(DualFlowConfig(inputs=48, width=128, channels=3, omega=30.0)),
        value_bits=16,
        source="CINR (Lee et al., MICCAI 2024), reference implementation; one model a 10000x10000 crop",
    ),
    "ngp": Preset(
        PAPER_ENCODING,
        relu_layers(48, 128, 4, PADDED_OUTPUTS),
        value_bits=16,
        source="Lee et al. 2024, section 3.1: the same encoding, MLP of 4 layers of 128",
    ),
    "engp": Preset(
        PAPER_ENCODING,
        relu_layers(48, 256, 8, PADDED_OUTPUTS),
        value_bits=16,
        source="Lee et al. 2024, section 3.1: the same encoding, MLP of 8 layers of 256",
    ),
}
