"""The TIFF files that people keep: 512-pixel tiles and a pyramid of levels, each half as large as the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import tifffile

from inrwsi.geometry import Rect

from .codecs import FILE, Reader, area_mean, imagecodecs_versions
from .probe import CountedFile, cores
from .sampling import TILE_PX, Picture


@dataclass(frozen=True)
class TiffCodec:
    """A pyramid by tifffile; the value is the `level` of imagecodecs' encoder.

    Attributes:
        compression: tifffile's name of it. options: more of its arguments. page: more arguments of the page.
    """

    name: str
    about: str
    form: str
    ladder: tuple[float, ...]
    quick_ladder: tuple[float, ...]
    compression: str
    options: tuple[tuple[str, Any], ...]
    page: tuple[tuple[str, Any], ...]
    libraries: tuple[str, ...]
    layouts: tuple[str, ...] = (FILE,)
    max_side_px: int = 2**31
    suffix: str = ".tiff"
    ours: bool = False

    def label(self, value: float) -> str:
        return self.form.format(value)

    def versions(self) -> dict[str, str]:
        return {"tifffile": tifffile.__version__, **imagecodecs_versions(self.libraries)}

    def encode(self, picture: Picture, layout: str, value: float, path: Path) -> None:
        level = picture.pixels
        with tifffile.TiffWriter(path, bigtiff=picture.pixels.nbytes > 2**31) as tiff:
            for number in range(64):
                tiff.write(
                    _tiles(level),
                    shape=level.shape,
                    dtype=level.dtype,
                    tile=(TILE_PX, TILE_PX),
                    compression=self.compression,
                    compressionargs={"level": int(value), **dict(self.options)},
                    subfiletype=int(number > 0),
                    maxworkers=cores(),
                    metadata=None,
                    **dict(self.page),
                )
                if max(level.shape) <= TILE_PX:
                    break
                level = _half(level)

    def open(self, path: Path, layout: str) -> Reader:
        return _TiffReader(path)


def _tiles(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Tiles row by row, all of one size: those at the edge are filled up with their last row and column."""
    for y in range(0, pixels.shape[0], TILE_PX):
        for x in range(0, pixels.shape[1], TILE_PX):
            tile = pixels[y : y + TILE_PX, x : x + TILE_PX]
            yield np.pad(tile, ((0, TILE_PX - tile.shape[0]), (0, TILE_PX - tile.shape[1]), (0, 0)), mode="edge")


def _half(pixels: np.ndarray) -> np.ndarray:
    """2x2 means; an odd last row or column is doubled first: (h, w, 3) -> (ceil(h / 2), ceil(w / 2), 3)."""
    h, w = pixels.shape[:2]
    return area_mean(np.pad(pixels, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge"), 2)


class _TiffReader:
    """Tiles of the level that is the nearest finer one to what is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = CountedFile(path)
        self._tiff = tifffile.TiffFile(self._file)
        self._levels = list(self._tiff.pages)
        self.wh = (self._levels[0].imagewidth, self._levels[0].imagelength)

    @property
    def bytes_read(self) -> int:
        return self._file.bytes_read

    def read(self, window: Rect, downsample: int = 1) -> np.ndarray:
        number = min(downsample.bit_length(), len(self._levels)) - 1
        by = 1 << number
        level = Rect(window.x // by, window.y // by, window.w // by, window.h // by)
        return area_mean(self._read_level(self._levels[number], level), downsample // by)

    def _read_level(self, page: Any, window: Rect) -> np.ndarray:
        side = page.tilewidth
        across = -(-page.imagewidth // side)
        out = np.empty((window.h, window.w, 3), np.uint8)
        for j in range(window.y // side, (window.y + window.h - 1) // side + 1):
            for i in range(window.x // side, (window.x + window.w - 1) // side + 1):
                index = j * across + i
                self._file.seek(page.dataoffsets[index])
                data = self._file.read(page.databytecounts[index])
                tile = page.decode(data, index, jpegtables=page.jpegtables)[0][0]
                cut = Rect(i * side, j * side, side, side).intersect(window)
                inside = np.s_[cut.y - j * side : cut.y - j * side + cut.h, cut.x - i * side : cut.x - i * side + cut.w]
                out[cut.y - window.y :, cut.x - window.x :][: cut.h, : cut.w] = tile[inside]
        return out

    def region_bytes(self, regions: Sequence[Rect]) -> tuple[int, ...] | None:
        across = -(-self.wh[0] // TILE_PX)
        counts = self._levels[0].databytecounts
        return tuple(int(counts[r.y // TILE_PX * across + r.x // TILE_PX]) for r in regions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._tiff.close()
        self._file.close()


TIFF_CODECS: tuple[TiffCodec, ...] = (
    TiffCodec(
        "tiff-jpeg",
        "Pyramid TIFF with JPEG 4:2:0 tiles: what a slide archive holds",
        "q={:g}",
        (10, 25, 50, 75, 90),
        (25, 60, 90),
        "jpeg",
        (),
        # What is handed over is RGB; tifffile has it stored as YCbCr.
        (("photometric", "rgb"), ("subsampling", (2, 2))),
        ("jpeg8",),
    ),
    TiffCodec(
        "tiff-jpeg2000",
        "Pyramid TIFF with JPEG 2000 tiles, irreversible 9/7, to a target PSNR",
        "{:g} dB",
        (27, 30, 33, 37, 41),
        (28, 33, 39),
        "jpeg2000",
        (("reversible", False),),
        (("photometric", "rgb"),),
        ("jpeg2k",),
    ),
)
