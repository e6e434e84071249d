"""Model `siren`: sine layers on the position (Sitzmann et al. 2020, section 3; omega_0 = 30, three hidden layers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from inrwsi.config import check, check_int
from inrwsi.fields.coordinates import LEAST_WIDTH, MOST_WIDTH, CoordinateConfig
from inrwsi.fields.networks import Layers, sine_layers


@dataclass(frozen=True, kw_only=True)
class SirenConfig(CoordinateConfig):
    """Of its own: `width` of the sine layers, `hidden` of these after the first, and `omega`, omega_0 of the paper."""

    name: str = "siren"
    width: int
    hidden: int
    omega: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("width", self.width, LEAST_WIDTH, MOST_WIDTH)
        check_int("hidden", self.hidden, 1, 16)
        check(0 < self.omega <= 1000, "omega", self.omega, "above 0 and at most 1000")

    @classmethod
    def of_width(cls, width: int, channels: int, weight_bits: int) -> Self:
        return cls(channels=channels, weight_bits=weight_bits, width=width, hidden=3, omega=30.0)

    def layers(self) -> Layers:
        return sine_layers(self.encoding.outputs, self.width, self.hidden, self.channels, self.omega)


CONFIG = SirenConfig
