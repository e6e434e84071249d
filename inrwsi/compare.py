"""How far a `.cinr` file is from the slide that it was made of: PSNR, SSIM and the worst tiles, over all of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from inrwsi.decode import Decoder
from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.output_base import partial_path
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.metrics import WINDOW_PX, SquaredError, luma_of, ssim_maps
from inrwsi.progress import Progress, Report

TILE_PX = 256
BAND_PX = 4096  # columns at a time: with STRIP_ROWS it bounds what is held, however large the slide
STRIP_ROWS = 512
DIFFERENCE_GAIN = 8

_BORDER_PX, _CAPTION_PX = 4, 14


@dataclass(frozen=True)
class TileError:
    """One tile, `TILE_PX` a side, less at the slide's edge.

    Attributes:
        l0_xy: its top left corner, in level-0 pixels.
        psnr_db: over its pixels, all channels together; inf where there is no error.
        source, decoded: (h, w, C) uint8 or uint16.
    """

    l0_xy: tuple[int, int]
    psnr_db: float
    source: np.ndarray = field(repr=False, compare=False)
    decoded: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True)
class CompareReport:
    """Figures of the whole slide.

    Attributes:
        psnr_db: of the squared error over all pixels and channels, peak 255 or 65535; inf where there is no error.
        ssim: mean over all windows that lie within the slide, of luma; nan where it is smaller than one.
        l0_wh: size that was compared, in level-0 pixels.
        worst: the tiles with the largest error, the worst first.
    """

    psnr_db: float
    ssim: float
    l0_wh: tuple[int, int]
    worst: tuple[TileError, ...]


def compare(
    file: str | os.PathLike[str] | BinaryIO | Container,
    against: str | os.PathLike[str] | np.ndarray | SlideSource,
    *,
    worst: int = 8,
    device: str = "auto",
    cache_bytes: int = 256 << 20,
    progress: Report | None = None,
) -> CompareReport:
    """Decode all of a `.cinr` file and compare it with a slide, a strip of 4096 x 512 pixels at a time.

    SSIM is of luma, as `inrwsi.metrics.luma_of` and `ssim_maps` have it.

    Args:
        file: path, URL, seekable binary file object or open container, which stays the caller's to close.
        against: slide file or picture, (h, w, C) pixels, or an open source, which stays the caller's to close.
        worst: how many of the worst tiles to report.
        device: auto, cpu or cuda.
        cache_bytes: limit of what the decoder keeps.
        progress: called now and then with what is done.

    Raises:
        UsageError: one of the two cannot be read, or they differ in size, channels or bit depth.
        CorruptFile, UnsupportedVersion: as `Decoder`.
    """
    if isinstance(against, (str, os.PathLike, np.ndarray)):
        with open_source(against) as source:
            return compare(file, source, worst=worst, device=device, cache_bytes=cache_bytes, progress=progress)
    with Decoder(file, device=device, cache_bytes=cache_bytes) as decoder:  # type: ignore[arg-type]
        _check_comparable(decoder.container, against)
        return _compare(decoder, against, worst, progress or (lambda _: None))


def _check_comparable(container: Container, source: SlideSource) -> None:
    """Raise `UsageError` unless the slide has the size, channels and bit depth that the file has."""
    slide = container.header.slide
    ours = (slide.width, slide.height, slide.channels, slide.bit_depth)
    theirs = (source.width, source.height, source.channels, source.bit_depth)
    if ours != theirs:
        have, want = ("{} x {} pixels with {} channels of {} bits".format(*facts) for facts in (theirs, ours))
        raise UsageError(f"{source.name}: has {have}, but {container.path} {want}; give the slide that it was made of")


def _compare(decoder: Decoder, source: SlideSource, worst: int, progress: Report) -> CompareReport:
    whole, tiles = SquaredError(), _Worst(worst)
    ssim, windows, done = 0.0, 0, 0
    width, height = decoder.header.slide.l0_wh
    for x in range(0, width, BAND_PX):
        band = min(BAND_PX, width - x)
        for y, first, original, decoded in _strips(decoder, source, x):
            windows_ssim, _ = ssim_maps(luma_of(original), luma_of(decoded))
            ssim, windows = ssim + float(windows_ssim.sum(dtype=np.float64)), windows + windows_ssim.size
            pair = original[first:, :band], decoded[first:, :band]
            whole.add(*pair)
            tiles.add((x, y), *pair)
            done += pair[0].shape[0] * band
            progress(Progress("compare", done / 1e6, width * height / 1e6, "Mpx", f"{whole.psnr_db:.2f} dB"))
    return CompareReport(whole.psnr_db, ssim / windows if windows else math.nan, (width, height), tiles.found())


def _strips(decoder: Decoder, source: SlideSource, x: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """A band of columns from `x`, top to bottom: (y, first, original, decoded), the last two (rows, columns, C).

    Row `first` is row y of the slide. Rows before it, and columns past the band, belong to what is beside the strip:
    each window of SSIM lies whole in just one strip.
    """
    overlap = WINDOW_PX - 1
    width, height = decoder.header.slide.l0_wh
    w = min(BAND_PX + overlap, width - x)
    above: tuple[np.ndarray, ...] = ()
    y = 0
    for decoded in decoder.strips((x, 0), (w, height), strip_rows=STRIP_ROWS):
        pair = (source.read((x, y), (w, len(decoded))), decoded)
        y += len(decoded)
        first = len(above[0]) if above else 0
        joined = tuple(np.concatenate(parts) for parts in zip(above, pair, strict=True)) if above else pair
        yield y - len(decoded), first, joined[0], joined[1]
        above = tuple(part[-overlap:].copy() for part in joined)


class _Worst:
    """The tiles with the largest mean squared error so far, at most `count` of them with their pixels."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._tiles: list[tuple[float, TileError]] = []

    def add(self, l0_xy: tuple[int, int], original: np.ndarray, decoded: np.ndarray) -> None:
        """The tiles of a strip that begins at `l0_xy`, a corner of tiles."""
        for top in range(0, original.shape[0], TILE_PX):
            for left in range(0, original.shape[1], TILE_PX):
                at = np.s_[top : top + TILE_PX, left : left + TILE_PX]
                error = SquaredError()
                error.add(original[at], decoded[at])
                if len(self._tiles) < self._count or (self._tiles and error.mse > self._tiles[-1][0]):
                    xy = (l0_xy[0] + left, l0_xy[1] + top)
                    tile = TileError(xy, error.psnr_db, original[at].copy(), decoded[at].copy())
                    self._tiles.append((error.mse, tile))
                    self._tiles.sort(key=lambda entry: (-entry[0], entry[1].l0_xy[1], entry[1].l0_xy[0]))
                    del self._tiles[self._count :]

    def found(self) -> tuple[TileError, ...]:
        return tuple(tile for _, tile in self._tiles)


def worst_tiles_picture(tiles: tuple[TileError, ...]) -> Image.Image:
    """A row a tile: the source, what was decoded, and grey plus `DIFFERENCE_GAIN` times their difference; RGB.

    Channels of 16 bits are shown from the source's darkest to its brightest of the tile, many channels as their mean.
    """
    row_px = TILE_PX + _CAPTION_PX + _BORDER_PX
    picture = Image.new("RGB", (3 * (TILE_PX + _BORDER_PX) + _BORDER_PX, row_px * len(tiles) + _BORDER_PX), "white")
    draw = ImageDraw.Draw(picture)
    for number, tile in enumerate(tiles):
        y = _BORDER_PX + number * row_px
        source, decoded = _shown(tile)
        panes = (source, decoded, 128 + DIFFERENCE_GAIN * (decoded - source))
        captions = (
            f"x={tile.l0_xy[0]} y={tile.l0_xy[1]}",
            f"decoded, {tile.psnr_db:.2f} dB",
            f"difference x {DIFFERENCE_GAIN}",
        )
        for column, (pane, caption) in enumerate(zip(panes, captions, strict=True)):
            x = _BORDER_PX + column * (TILE_PX + _BORDER_PX)
            draw.text((x, y), caption, fill="black")
            rgb = pane if pane.shape[2] == 3 else np.repeat(pane, 3, axis=2)
            rgb = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
            picture.paste(Image.fromarray(rgb), (x, y + _CAPTION_PX))
    return picture


def _shown(tile: TileError) -> tuple[np.ndarray, np.ndarray]:
    """Source and decoded as (h, w, 1 or 3) float64, of 0..255."""
    low, high = tile.source.min(axis=(0, 1)), tile.source.max(axis=(0, 1))
    if tile.source.dtype == np.uint8:
        low, high = np.zeros_like(low), np.full_like(high, 255)
    source, decoded = (
        (p - low.astype(np.float64)) * (255 / np.maximum(high - low, 1)) for p in (tile.source, tile.decoded)
    )
    if source.shape[2] in (1, 3):
        return source, decoded
    return source.mean(axis=2, keepdims=True), decoded.mean(axis=2, keepdims=True)


def save_picture(picture: Image.Image, out: Path) -> None:
    """Write a PNG that appears whole. OSError where it cannot be written."""
    partial = partial_path(out)
    try:
        picture.save(partial, "png")
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
