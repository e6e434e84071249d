"""A `.cinr` file as a pyramid that other programs open: TIFF for OpenSlide and QuPath, OME-Zarr, Deep Zoom."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from inrwsi.associated import associated_image
from inrwsi.decode import Decoder
from inrwsi.errors import CorruptFile, UsageError, naming, unless_damaged
from inrwsi.formats.container import Container
from inrwsi.formats.export import PyramidSpec, check_export, writer_for
from inrwsi.formats.export_base import TILE_PX
from inrwsi.formats.header import Header
from inrwsi.geometry import Rect, octave_wh
from inrwsi.progress import Progress, Report
from inrwsi.slide import CinrSlide

HALVINGS = 3
BLOCK_PX = TILE_PX << HALVINGS  # 50 MB of RGB: it bounds what is held, however large the slide


@dataclass(frozen=True)
class ExportReport:
    """What was made.

    Attributes:
        path: of the output.
        written_bytes: its size on the disk, all files together.
        levels_wh: size of each level, level 0 first.
        seconds: that it took.
        damaged: with `salvage`, one entry a profile or associated image that was left out, and one a chunk that was
            filled in.
    """

    path: str
    written_bytes: int
    levels_wh: tuple[tuple[int, int], ...]
    seconds: float
    damaged: tuple[CorruptFile, ...]


def export(
    slide: str | os.PathLike[str] | BinaryIO | Container | CinrSlide,
    out: str | os.PathLike[str],
    *,
    quality: int = 90,
    overwrite: bool = False,
    salvage: bool = False,
    device: str = "auto",
    cache_bytes: int = 256 << 20,
    progress: Report | None = None,
) -> ExportReport:
    """Write all of a slide as a pyramid of halves, in tiles of 512 pixels, by the name of `out`.

    `.tif` or `.tiff`: JPEG, for OpenSlide and for what reads OME-TIFF, with the scale, the ICC profile and, as further
    pages, the associated images. `.ome.zarr`: OME-NGFF 0.4, without loss. `.dzi`: Deep Zoom, JPEG.
    Of an open `CinrSlide` the scale is what that says, so that one can be given where the file has none.

    Args:
        slide: path, URL, seekable binary file object, open container or open slide; the last three stay open.
        out: appears when it is whole. Beside it a hidden folder holds what is made, for a TIFF up to twice its size.
        quality: of JPEG, 1 to 100; from 90 on with full colour resolution (4:4:4), below it with half (4:2:0).
        overwrite: replace an export of the same format; nothing else is replaced.
        salvage: fill damaged chunks with the background, leave a damaged profile and associated images out, and list
            them in the report, instead of raising.
        device: auto, cpu or cuda.
        cache_bytes: limit of what the decoder keeps. All else is bounded by `BLOCK_PX`.
        progress: called now and then with what is done.

    Raises:
        UsageError: the output cannot be written, or the file not be read.
        BackendUnavailable: `.ome.zarr` without zarr.
        CorruptFile, UnsupportedVersion: as `Decoder`.
    """
    began, out = time.monotonic(), Path(out)
    check_export(out, overwrite=overwrite)
    with ExitStack() as stack:
        if isinstance(slide, CinrSlide):
            container, header = slide._file.container, slide.header
        else:
            container = slide if isinstance(slide, Container) else stack.enter_context(Container.open(slide))  # type: ignore[arg-type]
            header = container.header
        decoder = stack.enter_context(Decoder(container, device=device, cache_bytes=cache_bytes, salvage=salvage))
        left_out: list[CorruptFile] = []
        spec = pyramid_spec(container, header, quality, left_out if salvage else None)
        with naming(out), writer_for(out)(out, spec) as writer:
            report = progress or (lambda _: None)
            for level, tile_ij, pixels in pyramid_tiles(decoder, spec.l0_wh, writer.level_count, report):
                writer.put(level, tile_ij, pixels)
    levels_wh = tuple(spec.level_wh(level) for level in range(writer.level_count))
    return ExportReport(
        str(out), writer.written_bytes, levels_wh, time.monotonic() - began, (*left_out, *decoder.damaged)
    )


def pyramid_spec(container: Container, header: Header, quality: int, damaged: list[CorruptFile] | None) -> PyramidSpec:
    """What a writer needs to know of a file; without what is damaged, where there is a list for that.

    Raises:
        UsageError: its slide is not of 1 or 3 channels of 8 bits.
        CorruptFile: the profile or an associated image is damaged.
    """
    slide = header.slide
    if not slide.is_picture:
        raise UsageError(
            f"{container.path}: has {slide.samples}; an export has 1 or 3 channels of 8 bits, and `inrwsi decode` "
            "writes any as a .tif"
        )
    associated = []
    for info in header.associated:
        image = unless_damaged(partial(associated_image, container, info), damaged)
        if image is not None:
            associated.append((info.name, np.asarray(image.convert("RGB"))))
    return PyramidSpec(
        l0_wh=slide.l0_wh,
        channels=slide.channels,
        mpp_um=slide.mpp_um,
        objective_power=slide.objective_power,
        icc=unless_damaged(container.icc, damaged),
        quality=quality,
        associated=tuple(associated),
    )


def pyramid_tiles(
    decoder: Decoder, l0_wh: tuple[int, int], level_count: int, progress: Report
) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    """Every tile of every level, block by block: (level, (column, row), (h, w, channels) uint8).

    A block is decoded once and gives the tiles of four levels, the coarser three as means of its pixels; every fourth
    level is decoded at its own downsample, which costs a 64th of the one before or less. The tiles of a slide are so
    made in one pass over it, with one block in memory.
    """
    bases = range(0, level_count, HALVINGS + 1)
    blocks = [(base, rect) for base in bases for rect in _blocks(octave_wh(l0_wh, base))]
    total, done = sum(rect.w * rect.h for _, rect in blocks) / 1e6, 0.0
    for base, rect in blocks:
        step = 1 << base
        strips = decoder.strips(
            (rect.x * step, rect.y * step), (rect.w * step, rect.h * step), step=step, strip_rows=TILE_PX
        )
        block = np.empty((rect.h, rect.w, decoder.header.slide.channels), np.uint8)
        row = 0
        for strip in strips:
            block[row : row + len(strip)] = strip
            row += len(strip)
            done += strip.shape[0] * strip.shape[1] / 1e6
            progress(Progress("export", done, total, "Mpx"))
        for level, pixels in enumerate(halves(block, min(HALVINGS, level_count - 1 - base)), base):
            x, y = rect.x >> (level - base), rect.y >> (level - base)
            for top in range(0, pixels.shape[0], TILE_PX):
                for left in range(0, pixels.shape[1], TILE_PX):
                    tile = pixels[top : top + TILE_PX, left : left + TILE_PX]
                    yield level, ((x + left) // TILE_PX, (y + top) // TILE_PX), tile


def _blocks(wh: tuple[int, int]) -> Iterator[Rect]:
    for y in range(0, wh[1], BLOCK_PX):
        for x in range(0, wh[0], BLOCK_PX):
            yield Rect(x, y, min(BLOCK_PX, wh[0] - x), min(BLOCK_PX, wh[1] - y))


def halves(pixels: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """`pixels` (h, w, C) uint8, and its means over 2, 4, ... pixels a side, `count` of them, sides rounded up.

    Rounded once, halves up. What is cut by the right or lower edge goes on with the edge's pixels.
    """
    yield pixels
    h, w = pixels.shape[:2]
    side = 1 << count
    sums = np.pad(pixels, ((0, -h % side), (0, -w % side), (0, 0)), mode="edge") if h % side or w % side else pixels
    for level in range(1, count + 1):
        rows = sums[0::2].astype(np.uint16)
        rows += sums[1::2]
        sums = rows[:, 0::2] + rows[:, 1::2]  # of 4^level pixels: below 2^14 for three halvings
        means = (sums + (1 << (2 * level - 1))) >> (2 * level)
        yield means[: -(-h >> level), : -(-w >> level)].astype(np.uint8)
