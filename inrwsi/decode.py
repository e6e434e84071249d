"""A rectangle of a `.cinr` file at any magnification, as pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch

from inrwsi.device import pick_device
from inrwsi.errors import CorruptFile, UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.header import Header
from inrwsi.geometry import Rect, check_output_wh, check_step, output_wh
from inrwsi.memory import give_back_free_pages
from inrwsi.options import check_model
from inrwsi.resample import CUBIC_REACH, AreaSum, CubicSum, Sampling
from inrwsi.tiles import FieldTiles

COLUMNS_AT_ONCE = 4096
PX_AT_ONCE, CHUNK_ROWS = 2**22, 256  # while pixels are summed they take ten times what they do then
NATIVE = Sampling()
STEP_TOLERANCE = 1e-6


class ModelDecoder(Protocol):
    """What a model gives: which sampling of the slide serves a step, and the blocks that cover a rectangle in it."""

    def sampling(self, step: float) -> Sampling:
        """The sampling to make output pixels of `step` level-0 pixels from: samples no larger than they, if it can."""
        ...

    def blocks(
        self, rect: Rect, sampling: Sampling
    ) -> Iterator[tuple[Rect, np.ndarray | tuple[int, ...] | CorruptFile]]:
        """Rectangles of samples that cover `rect`, each sample of it once, none beyond `sampling.samples_wh`.

        With each its (h, w, channels) samples, uint8 or uint16, its one colour where it is blank, or what is wrong with
        it.
        """
        ...


def _octave_tiles(container: Container, device: torch.device, cache_bytes: int) -> ModelDecoder:
    # Importing it compiles its entropy coder, which other models need not wait for.
    from inrwsi.octave_tiles import OctaveTiles

    return OctaveTiles(container, device, cache_bytes)


def model_decoder(container: Container, device: torch.device, cache_bytes: int) -> ModelDecoder:
    """What decodes the file's model.

    Raises:
        UnsupportedVersion: this build has no such model.
        CorruptFile: the model's part of the file is not of the spec.
    """
    check_model(container)
    kind = _octave_tiles if container.header.model["name"] == "octaves" else FieldTiles
    return kind(container, device, cache_bytes)


class Decoder:
    """An open `.cinr` file. Thread safe; a context manager.

    Args:
        file: path, URL, seekable binary file object, or an open container (which stays the caller's to close).
        device: auto, cpu or cuda.
        cache_bytes: limit of what is kept decoded.
        salvage: fill damaged chunks with the slide's background, and list them in `damaged`, instead of raising.

    Attributes:
        header: what the file says of its slide.
        damaged: with `salvage`, one entry a damaged chunk met so far.

    Raises:
        CorruptFile, UnsupportedVersion, UsageError.
    """

    def __init__(
        self,
        file: str | Path | BinaryIO | Container,
        *,
        device: str = "auto",
        cache_bytes: int = 256 << 20,
        salvage: bool = False,
    ) -> None:
        chosen = pick_device(device)
        self._owned = not isinstance(file, Container)
        self.container = file if isinstance(file, Container) else Container.open(file)
        try:
            self._model = model_decoder(self.container, chosen, cache_bytes)
        except BaseException:
            self.close()
            raise
        self._salvage, self._dtype = salvage, np.dtype(f"uint{self.header.slide.bit_depth}")
        self.damaged: list[CorruptFile] = []

    @property
    def header(self) -> Header:
        return self.container.header

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._owned:
            self.container.close()

    def read_region(
        self,
        l0_xy: tuple[int, int],
        l0_wh: tuple[int, int],
        *,
        step: float = 1.0,
        out_wh: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """The rectangle as one (h, w, channels) array, uint8 or uint16 as the slide is; arguments as for `strips`."""
        return self._whole(l0_xy, *self._view(l0_wh, step, out_wh))

    def read_at(self, l0_xy: tuple[float, float], step: float, out_wh: tuple[int, int]) -> np.ndarray:
        """Pixels of `step` level-0 pixels a side from a corner on, (h, w, channels), uint8 or uint16 as the slide is.

        Args:
            l0_xy: the corner, in level-0 pixels; it may lie between them, and outside the slide.
            step: as for `strips`.
            out_wh: how many pixels.

        Raises:
            UsageError, CorruptFile: as `strips`.
        """
        check_step(step)
        check_output_wh(out_wh)
        return self._whole(l0_xy, out_wh, (step, step))

    def strips(
        self,
        l0_xy: tuple[int, int],
        l0_wh: tuple[int, int],
        *,
        step: float = 1.0,
        out_wh: tuple[int, int] | None = None,
        strip_rows: int = 256,
    ) -> Iterator[np.ndarray]:
        """The rectangle from top to bottom, `strip_rows` output rows at a time.

        Each output pixel is the mean over its footprint, `step` level-0 pixels a side: of the samples that the model
        has for the step, which may be coarser or finer than the slide's pixels. Past native (step < 1) a model that
        has no finer ones is interpolated. Outside the slide is the slide's background.

        Args:
            l0_xy, l0_wh: the rectangle in level-0 pixels; it may reach outside the slide.
            step: level-0 pixels an output pixel, a positive number, whole or not. Ignored with `out_wh`.
            out_wh: exact output size instead.

        Yields:
            (rows, w, channels) uint8, or uint16 where the slide has 16 bits.

        Raises:
            UsageError: an empty rectangle or output, more than 2^20 output pixels a side, a step that is not
                `geometry.STEPS`, or more samples under one than can be summed (`resample.AreaSum`).
            CorruptFile: a chunk is damaged, without `salvage`.
        """
        view_wh, step_xy = self._view(l0_wh, step, out_wh)
        yield from self._strips(l0_xy, view_wh, step_xy, strip_rows)

    def _strips(
        self, l0_xy: tuple[float, float], out_wh: tuple[int, int], step_xy: tuple[float, float], strip_rows: int
    ) -> Iterator[np.ndarray]:
        w, h = out_wh
        for y in range(0, h, strip_rows):
            rows = (y, min(y + strip_rows, h))
            strip = self._strip(l0_xy, step_xy, w, rows)
            yield strip
            del strip  # who asked may have let go of it: the next one need not lie beside it
            if rows[1] < h:  # a view is one strip, and the next view uses the pages again
                give_back_free_pages()

    def _whole(self, l0_xy: tuple[float, float], out_wh: tuple[int, int], step_xy: tuple[float, float]) -> np.ndarray:
        """All of a picture; what is at work around the pixels is of `PX_AT_ONCE`, or `CHUNK_ROWS`."""
        w, h = out_wh
        strip_rows = max(CHUNK_ROWS, PX_AT_ONCE // w)
        strips = self._strips(l0_xy, out_wh, step_xy, strip_rows)
        if h <= strip_rows:
            return next(strips)
        out = np.empty((h, w, self.header.slide.channels), self._dtype)
        for y, strip in zip(range(0, h, strip_rows), strips, strict=True):
            out[y : y + strip_rows] = strip
        return out

    def _strip(
        self, l0_xy: tuple[float, float], step_xy: tuple[float, float], width: int, rows: tuple[int, int]
    ) -> np.ndarray:
        """Output `rows` of `width` columns. What is at work around the pixels is of `COLUMNS_AT_ONCE`, however wide."""
        if width <= COLUMNS_AT_ONCE:
            return self._rectangle(l0_xy, step_xy, (0, width), rows)
        strip = np.empty((rows[1] - rows[0], width, self.header.slide.channels), self._dtype)
        for x in range(0, width, COLUMNS_AT_ONCE):
            columns = (x, min(x + COLUMNS_AT_ONCE, width))
            strip[:, slice(*columns)] = self._rectangle(l0_xy, step_xy, columns, rows)
            if columns[1] < width:  # after the last, who asked for strips does so
                give_back_free_pages()
        return strip

    def _view(
        self, l0_wh: tuple[int, int], step: float, out_wh: tuple[int, int] | None
    ) -> tuple[tuple[int, int], tuple[float, float]]:
        """Size of the picture of a rectangle, and level-0 pixels a pixel of it, by axis."""
        if min(l0_wh) < 1:
            raise UsageError(f"the region is {l0_wh[0]} x {l0_wh[1]} pixels; it should be at least 1 x 1")
        if out_wh is None:
            check_step(step)
        w, h = size = out_wh or output_wh(l0_wh, step)
        check_output_wh(size)
        return size, (l0_wh[0] / w, l0_wh[1] / h) if out_wh else (step, step)

    def _rectangle(
        self, l0_xy: tuple[float, float], step_xy: tuple[float, float], out_x: tuple[int, int], out_y: tuple[int, int]
    ) -> np.ndarray:
        """Output columns `out_x` and rows `out_y`, as (rows, columns, channels)."""
        slide = self.header.slide
        sampling = self._model.sampling(min(step_xy))
        # From here on all is in samples.
        start = (l0_xy[0] * sampling.a_px + sampling.begins, l0_xy[1] * sampling.a_px + sampling.begins)
        step = (step_xy[0] * sampling.a_px, step_xy[1] * sampling.a_px)
        enlarged = sampling == NATIVE and min(step) < 1 - STEP_TOLERANCE
        reach = CUBIC_REACH if enlarged else 0
        low = [start[a] + (out_x, out_y)[a][0] * step[a] - reach for a in (0, 1)]
        high = [start[a] + (out_x, out_y)[a][1] * step[a] + reach for a in (0, 1)]
        rect = _samples_between(low, high, sampling, slide.l0_wh)
        background = np.array(slide.background)
        if step == (1.0, 1.0) and start[0].is_integer() and start[1].is_integer():
            asked = Rect(int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))
            return self._copy(asked, rect, sampling, background)
        samples_wh, ends = sampling.samples_wh(slide.l0_wh), sampling.ends(slide.l0_wh)
        total = (
            CubicSum(out_x, out_y, start, step, slide.channels, samples_wh, self._dtype)
            if enlarged
            else AreaSum(out_x, out_y, start, step, slide.channels, sampling.begins, ends, self._dtype)
        )
        for block, samples in self._blocks(rect, sampling):
            total.add((block.x, block.y), (block.w, block.h), samples)
        return total.result(background)

    def _copy(self, asked: Rect, rect: Rect, sampling: Sampling, background: np.ndarray) -> np.ndarray:
        """The samples of `asked`, of which `rect` is on the slide, as they are."""
        out = np.empty((asked.h, asked.w, len(background)), self._dtype)
        out[:] = background
        for block, samples in self._blocks(rect, sampling):
            part = block.intersect(rect)
            cut = samples
            if samples.ndim == 3:
                cut = samples[part.y - block.y :, part.x - block.x :][: part.h, : part.w]
            out[part.y - asked.y :, part.x - asked.x :][: part.h, : part.w] = cut
        return out

    def _blocks(self, rect: Rect, sampling: Sampling) -> Iterator[tuple[Rect, np.ndarray]]:
        if rect.empty:
            return
        for block, content in self._model.blocks(rect, sampling):
            if isinstance(content, CorruptFile):
                if not self._salvage:
                    raise content
                if all(content.where != known.where for known in self.damaged):
                    self.damaged.append(content)
                content = self.header.slide.background
            yield block, np.asarray(content)


def _samples_between(low: list[float], high: list[float], sampling: Sampling, l0_wh: tuple[int, int]) -> Rect:
    """Those of the slide's samples that lie between two corners, given in samples, in part or as a whole.

    The last sample goes to where the slide ends, which may be beyond its own end.
    """
    samples_wh, ends = sampling.samples_wh(l0_wh), sampling.ends(l0_wh)
    first, count = [0, 0], [0, 0]
    for a in (0, 1):
        begin, end = max(low[a], sampling.begins), min(high[a], ends[a])
        if begin < end:
            first[a] = min(int(np.floor(begin)), samples_wh[a] - 1)
            count[a] = min(int(np.ceil(end)), samples_wh[a]) - first[a]
    return Rect(first[0], first[1], count[0], count[1])
