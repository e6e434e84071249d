"""Pixels of a slide that OpenSlide opens, in the coordinates of its levels: for who makes pictures of other scales."""

from __future__ import annotations

import math

import numpy as np
import openslide

from inrwsi.geometry import Rect
from inrwsi.slide_parts import over

# OpenSlide tells downsamples from sizes, which are rounded: 16.02. Pixels of levels that scanners write cover 16 x 16.
ROUNDED = 0.01
NEAR_PX = 128  # a downsample that is off by 0.009, as of a side of 1003, comes back to whole pixels every 110


class SlideLevels:
    """The levels of an open slide, over its background. As thread safe as the slide is.

    Args:
        picture: (h, w, 3) uint8, where that is the slide's one level, in place of what OpenSlide reads.

    Attributes:
        l0_wh: size of the slide.
        background: (3,) uint8.
    """

    def __init__(self, slide: openslide.AbstractSlide, picture: np.ndarray | None = None) -> None:
        self._slide, self._picture = slide, picture
        self.l0_wh = slide.dimensions if picture is None else (picture.shape[1], picture.shape[0])
        self._downsamples = [_unrounded(d) for d in slide.level_downsamples]
        background = slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "ffffff")
        self.background = np.array(list(bytes.fromhex(background)), np.uint8)

    def best(self, step: float) -> tuple[int, float]:
        """The coarsest level that is no coarser than `step` level-0 pixels a pixel, and what its pixels are in them."""
        level = self._slide.get_best_level_for_downsample(step * (1 + ROUNDED))
        return level, self._downsamples[level]

    def ends(self, level: int) -> tuple[int, int]:
        """Past-the-last column and row of a level that has anything of the slide.

        The last pixels of a level that was rounded down stand for the slide up to its edge.
        """
        x, y = (math.ceil(side / self._downsamples[level] - ROUNDED) for side in self.l0_wh)
        return x, y

    def read(self, level: int, rect: Rect) -> np.ndarray:
        """(h, w, 3) uint8 of a rectangle of a level, in its own pixels; background where no slide lies.

        Raises:
            OpenSlideError: the file is damaged.
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
        if self._picture is not None:
            return self._picture[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]
        wh, downsample = self._slide.level_dimensions[level], self._slide.level_downsamples[level]
        x, y = min(rect.x, wh[0] - 1), min(rect.y, wh[1] - 1)
        size = (max(1, min(rect.x + rect.w, wh[0]) - x), max(1, min(rect.y + rect.h, wh[1]) - y))
        near = (_start(x, downsample), _start(y, downsample))
        before = (x - near[0], y - near[1])
        rgba = self._slide.read_region(
            (round(near[0] * downsample), round(near[1] * downsample)),
            level,
            (size[0] + before[0], size[1] + before[1]),
        )
        pixels = over(np.asarray(rgba)[before[1] :, before[0] :], tuple(self.background.tolist()))
        short = (rect.h - pixels.shape[0], rect.w - pixels.shape[1])
        return np.pad(pixels, ((0, short[0]), (0, short[1]), (0, 0)), mode="edge") if any(short) else pixels


def _start(first: int, downsample: float) -> int:
    """The column or row of a level, at `first` or shortly before, to read from.

    OpenSlide takes level-0 pixels and divides them by its own downsample. What is left of a pixel then it shifts the
    picture by, and blurs it; of some near column it is next to nothing.
    """
    starts = np.arange(first, max(0, first - NEAR_PX) - 1, -1)
    left = np.abs(np.rint(starts * downsample) / downsample - starts)
    return int(starts[np.argmin(left > left.min() + 1e-6)])


def _unrounded(downsample: float) -> float:
    whole = float(round(downsample))
    return whole if abs(downsample / whole - 1) <= ROUNDED else downsample
