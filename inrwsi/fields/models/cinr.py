"""Model `cinr`: the dual-flow network of CINR (Lee et al., MICCAI 2024, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from inrwsi.config import check_int
from inrwsi.fields.networks import DualFlowConfig, Layers, dual_flow_layers
from inrwsi.fields.tables import TableConfig


@dataclass(frozen=True, kw_only=True)
class CinrConfig(TableConfig):
    """Of its own: `width`, maps of the hidden layers. The paper's is 128."""

    name: str = "cinr"
    width: int

    network_preset: ClassVar[dict[str, Any]] = {"width": 32}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("width", self.width, 4, 256)

    @property
    def network(self) -> DualFlowConfig:
        return DualFlowConfig(inputs=self.levels * self.features, width=self.width, channels=self.channels)

    def layers(self) -> Layers:
        return dual_flow_layers(self.network)


CONFIG = CinrConfig
