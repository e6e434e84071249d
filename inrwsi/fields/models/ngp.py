"""Model `ngp`: the hash encoding under an MLP of 4 layers of 128 (Mueller et al. 2022, as Lee et al. 2024 use it)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from inrwsi.config import check_int
from inrwsi.fields.networks import Layers, relu_layers
from inrwsi.fields.tables import TableConfig


@dataclass(frozen=True, kw_only=True)
class NgpConfig(TableConfig):
    """Of its own: `width` of the hidden layers, and how many of these, `hidden`."""

    name: str = "ngp"
    width: int
    hidden: int

    network_preset: ClassVar[dict[str, Any]] = {"width": 128, "hidden": 4}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("width", self.width, 4, 512)
        check_int("hidden", self.hidden, 1, 16)

    def layers(self) -> Layers:
        return relu_layers(self.levels * self.features, self.width, self.hidden, self.channels)


CONFIG = NgpConfig
