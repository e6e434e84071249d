"""What a view costs and how good it is: bits of the chunks that it is made of, PSNR against the source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.formats.header import Header
from inrwsi.geometry import Rect
from inrwsi.metrics import psnr
from inrwsi.octave_tiles import STEP_TOLERANCE
from inrwsi.resample import Sampling
from inrwsi.serve.slides import OpenCinr, OpenSource

MOST_PX = 1024  # a side of what PSNR is taken over
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


def view_bits(slide: OpenCinr, view: View) -> int:
    """Bits of the payloads that the view's pixels are decoded from. Raises CorruptFile(INDEX)."""
    return 8 * sum(
        int(slide.payload_bytes(octave)[c.y : c.y + c.h, c.x : c.x + c.w].sum())
        for octave, c in needed_chunks(slide.header, view)
    )


def needed_chunks(header: Header, view: View) -> Iterator[tuple[int, Rect]]:
    """Octaves, each with the columns and rows of its chunks that the view needs: its own, and those these need."""
    octaves = header.grid.octaves
    octave = 0
    while octave < octaves[-1] and 2.0 ** (octave + 1) * (1 + STEP_TOLERANCE) < view.downsample:
        octave += 1
    sampling = Sampling(octave=octave)
    chunk_px, l0 = header.grid.chunk_px, view.l0
    first, past = [], []
    for start, size, samples in zip((l0.x, l0.y), (l0.w, l0.h), sampling.samples_wh(header.slide.l0_wh), strict=True):
        low = start * sampling.a_px + sampling.begins
        high = (start + size) * sampling.a_px + sampling.begins
        first.append(min(math.floor(low), samples - 1) // chunk_px)
        past.append((min(math.ceil(high), samples) - 1) // chunk_px + 1)
    while True:
        yield octave, Rect(first[0], first[1], past[0] - first[0], past[1] - first[1])
        if octave == octaves[-1]:
            return
        octave += 1
        first = [v // 2 for v in first]
        past = [(v + 1) // 2 for v in past]


def view_psnr_db(slide: OpenCinr, source: OpenSource, view: View) -> float:
    """PSNR in dB of the view's pixels against the source's of that downsample, as stored, without a colour profile.

    Past native both are taken at native. Of a large view it is of the middle, `MOST_PX` a side.

    Raises:
        CorruptFile, OpenSlideError: pixels cannot be read.
    """
    step = max(1.0, view.downsample)
    first, count = [], []
    for start, size, side in zip((view.l0.x, view.l0.y), (view.l0.w, view.l0.h), slide.header.slide.l0_wh, strict=True):
        low, high = round(start / step), min(round((start + size) / step), math.ceil(side / step))
        n = min(MOST_PX, max(1, high - low))
        first.append(max(0, min(low + (high - low - n) // 2, math.ceil(side / step) - n)))
        count.append(n)
    out = Rect(first[0], first[1], count[0], count[1])
    corner = (out.x * step, out.y * step)
    # Whole level-0 pixels: of a step that is none, one more than it takes, and what is too much is cut.
    l0_wh = (math.ceil(out.w * step), math.ceil(out.h * step))
    ours = slide.decoder.read_region(corner, l0_wh, step=step)[: out.h, : out.w]  # type: ignore[arg-type]
    theirs = source.read(Rect(out.x, out.y, ours.shape[1], ours.shape[0]), step)
    if ours.shape[2] == 1:
        ours = np.broadcast_to(ours, theirs.shape)
    return min(IDENTICAL_DB, psnr(np.ascontiguousarray(ours), theirs))
