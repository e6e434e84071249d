"""Model `siren`: sine layers on the position (Sitzmann et al. 2020, section 3; omega_0 = 30, three hidden layers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from inrwsi.config import check
from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.networks import Layers, sine_layers


@dataclass(frozen=True, kw_only=True)
class SirenConfig(CoordinateConfig):
    """Of its own: `omega`, omega_0 of the paper. `hidden` layers of sines come after the first."""

    name: str = "siren"
    omega: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.omega <= 1000, "omega", self.omega, "above 0 and at most 1000")

    @classmethod
    def of_width(cls, width: int, channels: int, weight_bits: int) -> Self:
        return cls(channels=channels, weight_bits=weight_bits, width=width, hidden=3, omega=30.0)

    def layers(self) -> Layers:
        return sine_layers(self.encoding.outputs, self.width, self.hidden, self.channels, self.omega)


CONFIG = SirenConfig
