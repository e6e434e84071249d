"""Named shapes of encoding and network, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inrwsi.fields.encodings import HashEncoding, HashGridConfig
from inrwsi.fields.networks import DualFlowConfig, DualFlowNet


@dataclass(frozen=True)
class Preset:
    """A model of one field.

    Attributes:
        encoding: shape of the hash grid.
        network: shape of the network on the grid's features.
        value_bits: bits in which each table entry and each weight is kept.
        source: where the numbers come from.
    """

    encoding: HashGridConfig
    network: DualFlowConfig
    value_bits: int
    source: str

    def build(self, device: torch.device | str) -> tuple[HashEncoding, DualFlowNet]:
        """The modules, float32, at their initial values; on the device "meta" they have shapes alone."""
        with torch.device(device):
            return HashEncoding(self.encoding), DualFlowNet(self.network)


PAPER_ENCODING = HashGridConfig(levels=24, features=2, log2_table=24, base_resolution=4, per_level_scale=1.5)
PAPER_NETWORK = DualFlowConfig(inputs=48, width=128, channels=3, omega=30.0)

PRESETS = {
    "paper": Preset(
        PAPER_ENCODING,
        PAPER_NETWORK,
        value_bits=16,
        source="CINR (Lee et al., MICCAI 2024), reference implementation; one model a 10000x10000 crop",
    ),
}
