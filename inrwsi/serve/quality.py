"""What a view costs and how good it is: its share of the bits of its chunks, and PSNR against the source."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.formats.header import Header
from inrwsi.geometry import MAX_PLACE_PX, Rect, check_step
from inrwsi.metrics import psnr
from inrwsi.octave_tiles import octave_for
from inrwsi.serve.slides import OpenCinr, OpenSource

MOST_PX = 1024  # a side of what PSNR is taken over
# PSNR is against means of pixels of a level so much finer: a scanner's own levels are another picture, sharper or
# softer and coded once more, and between pixels of theirs OpenSlide blurs. At most so many pixels a side are read.
FINER, MOST_SOURCE_PX = 4, 4096
IDENTICAL_DB = 100.0  # where no pixel differs; JSON has no infinity


@dataclass(frozen=True)
class View:
    """What is on screen.

    Attributes:
        l0: the part of the slide, in level-0 pixels.
        downsample: level-0 pixels a pixel of the screen.
    """

    l0: Rect
    downsample: float

    @classmethod
    def of(cls, l0_wh: tuple[int, int], xywh: tuple[float, float, float, float], downsample: float) -> View:
        """Cut to a slide of `l0_wh`, to whole pixels of it. Raises UsageError where nothing of the slide is in it."""
        if not all(map(math.isfinite, (*xywh, downsample))) or downsample <= 0:
            raise UsageError("x, y, w, h and downsample should be numbers, the last above 0")
        if max(map(abs, xywh)) > MAX_PLACE_PX:
            raise UsageError(f"x, y, w and h should be within {MAX_PLACE_PX} pixels of the slide's corner")
        check_step(downsample)
        x, y, w, h = xywh
        left, top = max(0, math.floor(x)), max(0, math.floor(y))
        right, bottom = min(l0_wh[0], math.ceil(x + w)), min(l0_wh[1], math.ceil(y + h))
        if w <= 0 or h <= 0 or right <= left or bottom <= top:
            raise UsageError(f"nothing of the slide, which is {l0_wh[0]} x {l0_wh[1]} pixels, is in x, y, w, h")
        return cls(Rect(left, top, right - left, bottom - top), downsample)

    @property
    def pixels(self) -> float:
        """Pixels that the view has of its own: those of the screen, or the slide's past native."""
        return max(1.0, self.l0.w * self.l0.h / max(1.0, self.downsample) ** 2)


def view_bits(slide: OpenCinr, view: View) -> float:
    """Bits of the payloads that the view is decoded from, of each by the share of its chunk's area that is in view.

    So the bits of views that share out the slide add up: at native to all payloads of the file. The bits of ancestors,
    which lie under more of the slide than is in view, are told in proportion too. Raises CorruptFile(INDEX).
    """
    l0_wh, grid = slide.header.slide.l0_wh, slide.header.grid
    bits = 0.0
    for octave in octaves_decoded(slide.header, view):
        chunk_l0_px = grid.chunk_px << octave
        columns = _shares(view.l0.x, view.l0.w, chunk_l0_px, l0_wh[0])
        rows = _shares(view.l0.y, view.l0.h, chunk_l0_px, l0_wh[1])
        bits += 8 * slide.payload_bytes(octave, rows, columns)
    return bits


def octaves_decoded(header: Header, view: View) -> tuple[int, ...]:
    """The octave that a decoder takes the view from, and those that it needs for that one's chunks."""
    octaves = header.grid.octaves
    return tuple(range(octave_for(view.downsample, octaves[-1]), octaves[-1] + 1))


def _shares(start: int, size: int, chunk_l0_px: int, side: int) -> np.ndarray:
    """Of each chunk along an axis, the share that lies within `size` level-0 pixels from `start`: (chunks,) float64."""
    edges = np.minimum(np.arange(-(-side // chunk_l0_px) + 1) * chunk_l0_px, side)
    inside = np.minimum(edges[1:], start + size) - np.maximum(edges[:-1], start)
    return np.maximum(inside, 0) / np.diff(edges)


def view_psnr_db(slide: OpenCinr, source: OpenSource, view: View) -> float:
    """PSNR in dB of the view's pixels against means of the source's, as stored, without a colour profile.

    Past native both are taken at native. Of a large view it is of the middle, `MOST_PX` a side or less.

    Raises:
        CorruptFile: pixels cannot be read; UsageError: those of the source.
    """
    step = max(1.0, view.downsample)
    finer = step / FINER
    most_px = max(1, min(MOST_PX, math.floor(MOST_SOURCE_PX * source.downsample_of(finer) / step)))
    first, count = [], []
    for start, size, side in zip((view.l0.x, view.l0.y), (view.l0.w, view.l0.h), slide.header.slide.l0_wh, strict=True):
        low, high = round(start / step), min(round((start + size) / step), math.ceil(side / step))
        n = min(most_px, max(1, high - low))
        first.append(max(0, min(low + (high - low - n) // 2, math.ceil(side / step) - n)))
        count.append(n)
    out = Rect(first[0], first[1], count[0], count[1])
    corner = (out.x * step, out.y * step)
    # Whole level-0 pixels: of a step that is none, one more than it takes, and what is too much is cut.
    l0_wh = (math.ceil(out.w * step), math.ceil(out.h * step))
    ours = slide.decoder.read_region(corner, l0_wh, step=step)[: out.h, : out.w]  # type: ignore[arg-type]
    theirs = source.read(Rect(out.x, out.y, ours.shape[1], ours.shape[0]), step, stored=finer)
    if ours.shape[2] == 1:
        ours = np.broadcast_to(ours, theirs.shape)
    return min(IDENTICAL_DB, psnr(np.ascontiguousarray(ours), theirs))
