"""Models of a network a tile: from a position in the tile to its colour, nothing else.

The papers fit one network to one picture. A slide is too large for one: each tile has its own, in its chunk, so that
any region is decoded from the tiles that it touches. Positions are [-1, 1] from edge to edge of a whole tile, as SIREN
has them, in units of 2^-15.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from inrwsi.config import check_int
from inrwsi.errors import Unreachable
from inrwsi.fields.activations import ACTIVATION_MAX, SINE_BITS, SINE_STEPS, look_up, sine_table
from inrwsi.fields.field import Expected, FieldConfig, Span, Tile, estimated_bytes

POSITION_BITS = 15
FREQUENCY_BITS = 8  # of a Fourier feature's frequency, after the point
FREQUENCY_MAX = 2**20
LEAST_WIDTH, MOST_WIDTH = 4, 512


def positions(tile_px: int, span: Span) -> np.ndarray:
    """(count,) int64: where samples lie, 0 to 2^16 from edge to edge of a tile; integers throughout."""
    return ((2 * span.indices() + 1) << POSITION_BITS) // (tile_px * span.finer)


class Encoding(Protocol):
    """From positions to a network's input."""

    @property
    def outputs(self) -> int:
        """Numbers a position."""
        ...

    @property
    def unit(self) -> float:
        """What one unit of them is worth in the paper's terms."""
        ...

    def __call__(self, y: np.ndarray, x: np.ndarray, device: torch.device) -> Tensor:
        """(h,) and (w,) from `positions` to (1, outputs, h, w) fp32 whole numbers."""
        ...


class Identity:
    """x and y themselves, in [-1, 1]."""

    outputs, unit = 2, 2.0**-POSITION_BITS
    top = 2 ** (POSITION_BITS + 1)  # largest absolute value, in a tile or around it

    def __call__(self, y: np.ndarray, x: np.ndarray, device: torch.device) -> Tensor:
        middle = 1 << POSITION_BITS
        grids = np.broadcast_arrays(x[None, :] - middle, y[:, None] - middle)
        return torch.from_numpy(np.stack(grids)[None].astype(np.float32)).to(device)


@dataclass(frozen=True)
class FourierFeatures:
    """cos(2 pi B v) and sin(2 pi B v) of v = (x, y) in [0, 1] (Tancik et al. 2020, equation 5).

    Attributes:
        count: L, rows of B; there are 2 L features, the cosines first.
        sigma: standard deviation of B's entries, in turns over a tile.
        seed: that B is drawn with.
    """

    count: int
    sigma: float
    seed: int

    top: ClassVar[int] = ACTIVATION_MAX  # largest absolute value
    unit: ClassVar[float] = 1 / ACTIVATION_MAX

    @property
    def outputs(self) -> int:
        return 2 * self.count

    def __call__(self, y: np.ndarray, x: np.ndarray, device: torch.device) -> Tensor:
        # Frequencies times positions are turns in units of 2^-24, of which whole ones are nothing: int32 holds a sum.
        rows = frequencies(self)
        along_x, along_y = ((rows[:, a, None] * u % 2**24).astype(np.int32) for a, u in ((0, x), (1, y)))
        turns = torch.from_numpy(along_x).to(device)[:, None, :] + torch.from_numpy(along_y).to(device)[:, :, None]
        turns >>= 24 - SINE_BITS
        table = sine_table(str(device))
        return torch.cat([look_up(table, turns + SINE_STEPS // 4), look_up(table, turns)])[None]


@lru_cache(maxsize=16)
def frequencies(features: FourierFeatures) -> np.ndarray:
    """B of `FourierFeatures`, (L, 2) int64 in units of 2^-8 turns over a tile: from a seed, the same everywhere.

    The sum of twelve numbers drawn evenly from 0 to 2^16 - 1 is nearly normal, with a deviation of 2^16.
    """
    drawn = split_mix(features.seed, 6 * features.count)  # each is four numbers of 16 bits
    parts = [(number >> shift) & 0xFFFF for number in drawn for shift in (0, 16, 32, 48)]
    normal = np.array(parts, np.int64).reshape(features.count, 2, 12).sum(axis=2) - 6 * 2**16
    return (normal * round(features.sigma * 2**FREQUENCY_BITS)) >> 16


def split_mix(seed: int, count: int) -> list[int]:
    """`count` numbers of 64 bits (SplitMix64: Steele, Lea and Flood 2014, figure 16)."""
    mask, found = 2**64 - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


@dataclass(frozen=True, kw_only=True)
class CoordinateConfig(FieldConfig):
    """Keys of every model of this kind (SPEC.md, Annex C): `width` of the hidden layers, and how many, `hidden`.

    Attributes:
        learning_rate: of the fit's beginning, at a width of 48; of others it goes with the root of 48 / width.
    """

    width: int
    hidden: int

    tile_px: ClassVar[int] = 128
    passes: ClassVar[int] = 60
    input_max: ClassVar[int] = Identity.top
    learning_rate: ClassVar[float] = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("width", self.width, LEAST_WIDTH, MOST_WIDTH)
        check_int("hidden", self.hidden, 1, 16)

    @property
    def encoding(self) -> Encoding:
        """What the network sees of a position."""
        return Identity()

    @classmethod
    @abstractmethod
    def of_width(cls, width: int, channels: int, weight_bits: int) -> Self:
        """The preset with hidden layers of that width."""

    @classmethod
    def for_bpp(cls, bpp: float, tile_px: int, channels: int = 3, weight_bits: int = 8) -> Self:
        """The narrowest preset that takes the target's bits."""

        def bits(width: int) -> float:
            return 8 * cls.of_width(width, channels, weight_bits).estimated_bytes() / tile_px**2

        least = cls.least_bpp(tile_px, channels, weight_bits)
        if least > bpp:
            raise Unreachable(
                f"model {cls.name} in tiles of {tile_px} pixels takes {least:.2g} bits a pixel at least, "
                f"and the target leaves {bpp:.2g}; give more bits, or larger tiles by --tile-px"
            )
        width = bisect_left(range(LEAST_WIDTH, MOST_WIDTH), bpp, key=bits) + LEAST_WIDTH
        return cls.of_width(width, channels, weight_bits)

    @classmethod
    def least_bpp(cls, tile_px: int, channels: int = 3, weight_bits: int = 8) -> float:
        return 8 * cls.of_width(LEAST_WIDTH, channels, weight_bits).estimated_bytes() / tile_px**2

    def estimated_bytes(self) -> float:
        """What a tile's network takes in the file, about."""
        return estimated_bytes(self.network_tensors())

    def slide_tensors(self) -> Expected:
        return {}

    def tile_tensors(self) -> Expected:
        return self.network_tensors()

    def tile_from(self, slide: Tile | None, tensors: Mapping[str, np.ndarray], device: torch.device) -> Tile:
        return Tile(self.numbers(tensors, device))

    def inputs(self, tile: Tile, tile_px: int, rows: Span, columns: Span) -> Tensor:
        device = next(iter(tile.numbers.values())).weight.device
        return self.encoding(positions(tile_px, rows), positions(tile_px, columns), device)
