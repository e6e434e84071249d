"""Models of a table a tile: a multiresolution hash grid of the tile's own, under one network a slide.

Source of the tables: Mueller et al. 2022. Entries are whole numbers of 4, 6 or 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from inrwsi.config import ConfigError, check
from inrwsi.fields.activations import ACTIVATION_MAX, round_through
from inrwsi.fields.encodings import HashGridConfig
from inrwsi.fields.field import Expected, FieldConfig, Span, Tile
from inrwsi.fields.grid import FRACTION, Axis, encode_grid, plan_axis

MAX_TABLE_VALUES = 2**24
MARGIN_PX = 8
STORED_BITS = {4: 3.3, 6: 5.2, 8: 7.2}  # of a table entry after zstd, about, by table_bits


@dataclass(frozen=True, kw_only=True)
class TableConfig(FieldConfig):
    """Keys of every model of this kind (SPEC.md, Annex A)."""

    levels: int
    features: int
    log2_table: int
    base_resolution: int
    per_level_scale: float
    table_bits: int

    input_max: ClassVar[int] = ACTIVATION_MAX
    named_payload: ClassVar[bool] = True
    network_preset: ClassVar[dict[str, Any]] = {}  # a subclass's own keys, for every target

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.table_bits in (4, 6, 8), "table_bits", self.table_bits, "4, 6 or 8")
        try:
            values = self.grid.parameter_count
        except ValueError as error:
            raise ConfigError(str(error)) from None
        check(values <= MAX_TABLE_VALUES, "table values", values, f"at most {MAX_TABLE_VALUES}")

    @classmethod
    def for_bpp(cls, bpp: float, tile_px: int, channels: int = 3, weight_bits: int = 8) -> Self:
        """The preset for a target in bits a pixel of tissue, of a tile's table.

        Six levels of four features, or of eight where there are more than three channels, which grow evenly up to the
        vertices a side that the target pays for; entries of 4 bits, or 6 and 8 where the target would otherwise pay for
        more vertices than pixels. A level's table is as large as its grid: at the rates of a codec, collisions cost
        more than they save. The network, some tens of kB, comes on top once a slide.
        """
        features, levels = 4 if channels <= 3 else 8, 6
        bits = next(b for b, most_bpp in ((4, 2.0), (6, 3.5), (8, math.inf)) if bpp <= most_bpp * features)
        values = bpp * tile_px**2 / STORED_BITS[bits]
        low, high = 4.0, 2.0 * tile_px
        for _ in range(40):  # the finest level's side, by bisection: the count grows with it
            finest = (low + high) / 2
            base, scale = _ladder(finest, levels)
            count = HashGridConfig(levels, features, 24, base, scale).parameter_count
            low, high = (finest, high) if count <= values else (low, finest)
        base, scale = _ladder(low, levels)
        return cls(
            levels=levels,
            features=features,
            log2_table=20,
            base_resolution=base,
            per_level_scale=scale,
            channels=channels,
            table_bits=bits,
            weight_bits=weight_bits,
            **cls.network_preset,
        )  # type: ignore[call-arg]

    @property
    def grid(self) -> HashGridConfig:
        """The hash grid of one tile."""
        return HashGridConfig(
            self.levels, self.features, self.log2_table, self.base_resolution, self.per_level_scale
        )  # fmt: skip

    @property
    def table_max(self) -> int:
        """Largest absolute value of a table entry."""
        return 2 ** (self.table_bits - 1) - 1

    def slide_tensors(self) -> Expected:
        return {"table.gain": ((self.levels,), "float32")} | self.network_tensors()

    def slide_from(self, tensors: Mapping[str, np.ndarray], device: torch.device) -> Tile:
        gain = torch.from_numpy(np.array(tensors["table.gain"])).to(device)
        return Tile(self.numbers(tensors, device), gain=gain)

    def tile_tensors(self) -> Expected:
        return {"table": ((self.grid.entry_count, self.features), "int8")}

    def tile_from(self, slide: Tile | None, tensors: Mapping[str, np.ndarray], device: torch.device) -> Tile:
        if slide is None:
            raise ValueError("there are no weights of the slide")
        table = tensors["table"]
        if np.abs(table.astype(np.int16)).max() > self.table_max:
            raise ValueError(f"a table entry is beyond {self.table_max}, the most of {self.table_bits} bits")
        return Tile(slide.numbers, torch.from_numpy(table).to(device), slide.gain)

    def inputs(self, tile: Tile, tile_px: int, rows: Span, columns: Span) -> Tensor:
        if tile.table is None or tile.gain is None:
            raise ValueError("the tile has no table")
        plans = [[plan_axis(self.grid, tile_positions(tile_px, s.start, s.count, s.finer))] for s in (rows, columns)]
        return features(tile.table.to(torch.float32), self, tile.gain, *plans)


def _ladder(finest: float, levels: int) -> tuple[int, float]:
    """Base resolution and scale of `levels` that end at `finest` vertices a side."""
    base = max(2, round(finest / 14))
    return base, round(max(1.0, (finest / base) ** (1 / (levels - 1))), 4)


def tile_positions(tile_px: int, start_px: int, count: int, finer: int = 1) -> np.ndarray:
    """Positions of `count` samples along one axis of a tile, (count,) fp64 in (0, 1).

    A tile's table covers its pixels and `MARGIN_PX` around them, so that the halo of the convolutions has features too.

    Args:
        tile_px: side of the tile.
        start_px: the first sample, in samples of 1 / finer pixel from the tile's edge; may be negative.
        finer: samples a pixel.
    """
    samples = start_px + np.arange(count, dtype=np.int64)
    return ((samples + 0.5) / finer + MARGIN_PX) / (tile_px + 2 * MARGIN_PX)


@lru_cache(maxsize=1024)
def plan_patch(config: TableConfig, tile_px: int, start_px: int, size_px: int) -> list[Axis]:
    """One axis of a patch with its halo; the fit asks for the same ones again and again."""
    span = Span(start_px, size_px).widened(config.halo_px)
    return plan_axis(config.grid, tile_positions(tile_px, span.start, span.count))


def features(
    table: Tensor, config: TableConfig, gain: Tensor, rows: list, columns: list, *, exact: bool = True
) -> Tensor:
    """Network inputs, whole numbers within +-127, from whole table entries.

    Args:
        table: (entries, features) or (B, entries, features).
        gain: (levels,) what a table entry is worth in inputs, a level.
        rows, columns: plans of B grids (`grid.plan_axis`).
    """
    sums = encode_grid(table, config.grid, rows, columns)
    gains = (gain / (FRACTION * FRACTION)).repeat_interleave(config.features)[:, None, None]
    scaled = sums * gains
    if exact:
        return scaled.round().clamp_(-ACTIVATION_MAX, ACTIVATION_MAX)
    return round_through(scaled.clamp(-ACTIVATION_MAX, ACTIVATION_MAX))
