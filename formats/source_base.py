"""What every slide source shares: facts, window checks, and the whole slide made small in bounded memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

import numpy as np

from inrwsi.errors import UsageError

MAX_CHANNELS = 16
# Pixels read at once by overview(): 2 Mpixel of RGBA is 8 MiB, and a tile row of a 100,000-pixel-wide slide.
_BLOCK_PX = 2**21
_BLOCK_SIDE = 1024
# Sizes of levels are rounded: a level of 1810 of 7243 pixels is the mip at 1/4.
_LEVEL_SLACK = 1.01


@dataclass(frozen=True)
class Scale:
    """How large a pixel is, and where that was learned."""

    mpp_um: tuple[float, float] | None = None
    mpp_source: str = "unknown"
    objective_power: float | None = None
    objective_source: str = "unknown"


@dataclass(frozen=True)
class Facts:
    """What is known of a slide without reading its pixels. `name` is a basename, for messages only."""

    name: str
    width: int
    height: int
    channels: int
    bit_depth: int
    background: tuple[int, ...]
    scale: Scale = Scale()
    icc: bytes | None = None
    associated: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None
    bytes_on_disk: int = 0


def default_background(channels: int, bit_depth: int) -> tuple[int, ...]:
    """White for colour, where bright field is the rule; black for single or many channels, which are fluorescence."""
    return ((1 << bit_depth) - 1 if channels == 3 else 0,) * channels


def overview_step(size_wh: tuple[int, int], max_px: int) -> int:
    """Level-0 pixels along each side of one overview pixel, so that the long side has at most `max_px`."""
    return max(1, -(-max(size_wh) // max_px))


def composite(pixels: np.ndarray, background: Sequence[int], *, premultiplied: bool = False) -> np.ndarray:
    """Colour over a background, by the last channel of `pixels` (h, w, C + 1) uint8 or uint16 as alpha -> (h, w, C)."""
    colour, alpha = pixels[..., :-1], pixels[..., -1:]
    full = int(np.iinfo(pixels.dtype).max)
    if alpha.size == 0 or alpha.min() == full:
        return np.ascontiguousarray(colour)
    weight = alpha.astype(np.uint64)
    own = colour.astype(np.uint64) * (full if premultiplied else weight)
    mixed = (own + (full - weight) * np.asarray(background, np.uint64) + full // 2) // full
    return np.minimum(mixed, full).astype(pixels.dtype)


class BaseSource(ABC):
    """A slide: its facts as attributes, and its pixels by level-0 window. Subclasses say how a window is read."""

    def __init__(self, facts: Facts) -> None:
        self.name = facts.name
        self.width, self.height = facts.width, facts.height
        self.channels, self.bit_depth = facts.channels, facts.bit_depth
        self.mpp_um, self.mpp_source = facts.scale.mpp_um, facts.scale.mpp_source
        self.objective_power, self.objective_source = facts.scale.objective_power, facts.scale.objective_source
        self.background = facts.background
        self.icc = facts.icc
        self.associated = facts.associated
        self.metadata = dict(facts.metadata or {})
        self.bytes_on_disk = facts.bytes_on_disk

    # ---- what a subclass gives

    @property
    def levels_wh(self) -> tuple[tuple[int, int], ...]:
        """Sizes of the stored levels, level 0 first. One level unless the subclass knows of more."""
        return ((self.width, self.height),)

    def _tile_wh(self, level: int) -> tuple[int, int]:
        """Size of what the file decodes at once; overview() reads whole ones."""
        return (256, 256)

    @abstractmethod
    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        """(h, w, C) of a window that lies inside the level, in pixels of that level. Must be thread safe."""

    def read_associated(self, name: str) -> np.ndarray:
        """The associated image `name`, (h, w, 3) uint8. UsageError if there is none of that name."""
        raise UsageError(
            f"{self.name}: has no associated image {name!r}; it has: {', '.join(self.associated) or 'none'}"
        )

    def close(self) -> None:  # noqa: B027 - an array has nothing to let go of
        """Let go of the file. Nothing may be read afterwards."""

    # ---- what is the same for all

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, l0_xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        """Pixels of the level-0 window at `l0_xy` of `wh` pixels: (h, w, C) uint8 or uint16. Thread safe.

        UsageError if the window is empty or leaves the slide, or if the file's pixels there cannot be decoded.
        """
        (x, y), (w, h) = l0_xy, wh
        if w < 1 or h < 1 or x < 0 or y < 0 or x + w > self.width or y + h > self.height:
            raise UsageError(
                f"{self.name}: window x={x}, y={y}, {w}x{h} is not inside the slide, {self.width}x{self.height} pixels"
            )
        return self._read_level(0, x, y, w, h)

    def read_level(self, level: int, xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        """(h, w, C) of a window inside a stored level (`levels_wh`), in that level's own pixels. Thread safe.

        UsageError if the file's pixels there cannot be decoded.
        """
        return self._read_level(level, *xy, *wh)

    def overview(self, max_px: int) -> np.ndarray:
        """The whole slide, area-averaged, with a long side of at most `max_px`: (h, w, C) in the slide's own dtype.

        One overview pixel is the mean of the `overview_step` x `overview_step` level-0 pixels below it (fewer at the
        right and bottom border), taken from the smallest stored level that has two pixels or more for it on each side.
        Reads a block at a time, so that memory does not grow with the slide.
        """
        if max_px < 1:
            raise UsageError(f"an overview of {max_px} pixels cannot be made; ask for at least 1")
        step = overview_step((self.width, self.height), max_px)
        level = max(
            (i for i, (w, _) in enumerate(self.levels_wh) if i == 0 or w * step * _LEVEL_SLACK >= 2 * self.width),
            key=lambda i: (-self.levels_wh[i][0], -i),
        )
        level_w, level_h = self.levels_wh[level]
        edges_x, edges_y = _edges(self.width, step, level_w), _edges(self.height, step, level_h)
        dtype = np.dtype(np.uint8 if self.bit_depth == 8 else np.uint16)
        out = np.empty((len(edges_y) - 1, len(edges_x) - 1, self.channels), dtype)
        block_w, block_h = _block_wh(self._tile_wh(level), level_w)
        carry = np.zeros(out.shape[1:], np.float64)
        for y in range(0, level_h, block_h):
            h = min(block_h, level_h - y)
            first, last = _cells(edges_y, y, y + h)
            sums = np.zeros((last - first, *out.shape[1:]), np.float64)
            sums[0] += carry
            for x in range(0, level_w, block_w):
                w = min(block_w, level_w - x)
                left, right = _cells(edges_x, x, x + w)
                block = self._read_level(level, x, y, w, h)
                rows = _sum_rows(block, np.clip(edges_y[first : last + 1] - y, 0, h))
                sums[:, left:right] += _sum_columns(rows, np.clip(edges_x[left : right + 1] - x, 0, w))
            unfinished = edges_y[last] > y + h
            carry = sums[-1] if unfinished else np.zeros_like(carry)
            done = last - first - int(unfinished)
            area = np.diff(edges_y[first : first + done + 1])[:, None] * np.diff(edges_x)[None, :]
            out[first : first + done] = np.floor(sums[:done] / area[..., None] + 0.5)
        return out


def _edges(size_px: int, step: int, level_px: int) -> np.ndarray:
    """Borders of the overview's cells in pixels of a level, float64, from 0 to `level_px`."""
    edges = np.minimum(np.arange(-(-size_px // step) + 1, dtype=np.float64) * step, size_px)
    return edges * level_px / size_px


def _cells(edges: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """Range of the cells that [start, stop) touches."""
    return int(np.searchsorted(edges, start, "right")) - 1, int(np.searchsorted(edges, stop, "left"))


def _block_wh(tile_wh: tuple[int, int], level_w: int) -> tuple[int, int]:
    """A read size of whole tiles, near 1024 a side, of at most about `_BLOCK_PX` pixels."""
    tile_w, tile_h = tile_wh
    w = min(level_w, -(-_BLOCK_SIDE // tile_w) * tile_w)
    tile_h = min(tile_h, max(1, _BLOCK_PX // w))
    rows_that_fit = max(1, _BLOCK_PX // (w * tile_h))
    return w, tile_h * min(-(-_BLOCK_SIDE // tile_h), rows_that_fit)


def _sum_rows(block: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sums of rows between neighbouring edges, border rows by their share: (h, w, C) -> (cells, w, C) float64."""
    out = np.empty((len(edges) - 1, *block.shape[1:]), np.float64)
    for i, (a, b) in enumerate(pairwise(edges)):
        whole_a, whole_b = math.ceil(a), math.floor(b)
        if whole_a > whole_b:  # the cell lies inside one row
            out[i] = (b - a) * block[whole_b]
            continue
        # uint32 holds the sum of 65,537 rows of 16 bits; a block has far fewer.
        out[i] = block[whole_a:whole_b].sum(axis=0, dtype=np.uint32)
        if whole_a > a:
            out[i] += (whole_a - a) * block[whole_a - 1]
        if b > whole_b:
            out[i] += (b - whole_b) * block[whole_b]
    return out


def _sum_columns(rows: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sums of columns between neighbouring edges, border columns by their share: (n, w, C) -> (n, cells, C)."""
    width = rows.shape[1]
    running = np.zeros((rows.shape[0], width + 1, rows.shape[2]))
    np.cumsum(rows, axis=1, out=running[:, 1:])
    whole = np.floor(edges).astype(np.intp)
    share = (edges - whole)[None, :, None]
    at_edges = running[:, whole] + share * rows[:, np.minimum(whole, width - 1)]
    return np.diff(at_edges, axis=1)
