"""Model `fourier`: random Fourier features under an MLP of ReLU (Tancik et al. 2020, sections 4 to 6).

The paper's network for pictures has three hidden layers and L = 256. Its sigmoid at the end is left out: samples are
clamped to 0..255 instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from inrwsi.config import check, check_int
from inrwsi.fields.coordinates import CoordinateConfig, FourierFeatures
from inrwsi.fields.networks import Layers, relu_layers


@dataclass(frozen=True, kw_only=True)
class FourierConfig(CoordinateConfig):
    """Of its own: `frequencies`, L of the paper, `sigma` of their normal distribution, in turns over a tile, and the
    `seed` that they are drawn with."""

    name: str = "fourier"
    frequencies: int
    sigma: float
    seed: int

    tile_px: ClassVar[int] = 256  # the first layer has 512 inputs, which a smaller tile could not pay for
    input_max: ClassVar[int] = FourierFeatures.top
    learning_rate: ClassVar[float] = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("frequencies", self.frequencies, 1, 1024)
        check(0 < self.sigma <= 1000, "sigma", self.sigma, "above 0 and at most 1000")
        check_int("seed", self.seed, 0, 2**64 - 1)

    @classmethod
    def of_width(cls, width: int, channels: int, weight_bits: int) -> Self:
        return cls(
            channels=channels,
            weight_bits=weight_bits,
            frequencies=256,
            sigma=10.0,
            seed=0,
            width=width,
            hidden=3,
        )

    @property
    def encoding(self) -> FourierFeatures:
        return FourierFeatures(self.frequencies, self.sigma, self.seed)

    def layers(self) -> Layers:
        return relu_layers(self.encoding.outputs, self.width, self.hidden, self.channels, biases=True)


CONFIG = FourierConfig
