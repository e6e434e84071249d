"""Pixels of a source slide in the coordinates of its levels: for who makes pictures of other scales."""

from __future__ import annotations

import math

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.formats.source import SlideSource
from inrwsi.geometry import Rect

# Downsamples are told from sizes, which are rounded: 16.02. Pixels of levels that scanners write cover 16 x 16.
ROUNDED = 0.01


class SlideLevels:
    """The levels of a source, in colour, over its background. As thread safe as the source is.

    Args:
        source: what is read, which stays the caller's to close.
        path: for messages.

    Attributes:
        l0_wh: size of the slide.
        background: (3,) uint8.

    Raises:
        UsageError: the source has other than 1 or 3 channels of 8 bits.
    """

    def __init__(self, source: SlideSource, path: str) -> None:
        if source.channels not in (1, 3) or source.bit_depth != 8:
            raise UsageError(
                f"{path}: has {source.channels} channels of {source.bit_depth} bits; give a slide with 1 or 3 of 8"
            )
        self._source = source
        self.l0_wh = (source.width, source.height)
        self._downsamples = [_downsample(self.l0_wh, wh) for wh in source.levels_wh]
        self.background = np.broadcast_to(np.array(source.background, np.uint8), 3)

    def best(self, step: float) -> tuple[int, float]:
        """The coarsest level that is no coarser than `step` level-0 pixels a pixel, and what its pixels are in them."""
        fitting = [(d, level) for level, d in enumerate(self._downsamples) if d <= step * (1 + ROUNDED)]
        downsample, level = max(fitting, default=(self._downsamples[0], 0))
        return level, downsample

    def ends(self, level: int) -> tuple[int, int]:
        """Past-the-last column and row of a level that has anything of the slide.

        The last pixels of a level that was rounded down stand for the slide up to its edge.
        """
        x, y = (math.ceil(side / self._downsamples[level] - ROUNDED) for side in self.l0_wh)
        return x, y

    def read(self, level: int, rect: Rect) -> np.ndarray:
        """(h, w, 3) uint8 of a rectangle of a level, in its own pixels; background where no slide lies.

        Raises:
            UsageError: the file is damaged.
        """
        part = rect.intersect(Rect(0, 0, *self.ends(level)))
        if part == rect:
            return self._inside(level, rect)
        pixels = np.empty((rect.h, rect.w, 3), np.uint8)
        pixels[:] = self.background
        if not part.empty:
            at = np.s_[part.y - rect.y : part.y - rect.y + part.h, part.x - rect.x : part.x - rect.x + part.w]
            pixels[at] = self._inside(level, part)
        return pixels

    def _inside(self, level: int, rect: Rect) -> np.ndarray:
        """The same of the slide; the level may end a pixel before the rectangle does."""
        wh = self._source.levels_wh[level]
        x, y = min(rect.x, wh[0] - 1), min(rect.y, wh[1] - 1)
        size = (max(1, min(rect.x + rect.w, wh[0]) - x), max(1, min(rect.y + rect.h, wh[1]) - y))
        pixels = self._source.read_level(level, (x, y), size)
        if pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        short = (rect.h - pixels.shape[0], rect.w - pixels.shape[1])
        return np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge") if any(short) else pixels


def _downsample(l0_wh: tuple[int, int], wh: tuple[int, int]) -> float:
    """What a level's pixels are of level 0: the whole number that its size comes from, where it comes from one."""
    ratios = [side / own for side, own in zip(l0_wh, wh, strict=True)]
    for whole in (math.floor(min(ratios)), math.ceil(max(ratios))):
        if all(own in (side // whole, -(-side // whole)) for side, own in zip(l0_wh, wh, strict=True)):
            return float(whole)
    whole = round(max(ratios))
    return float(whole) if abs(max(ratios) / whole - 1) <= ROUNDED else max(ratios)
