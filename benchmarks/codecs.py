"""Everything that is compared, behind one interface: pixels to a file, a file to pixels.

A codec is handed the same RGB uint8 pixels as every other and no word about colour: what it converts to inside, and
how it rounds on the way back, is its own affair and shows in its figures. Decoding is given a path and nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import imagecodecs
import numpy as np
import PIL
from PIL import Image, features

from inrwsi.errors import InrwsiError
from inrwsi.geometry import Rect

from . import tilepack
from .probe import CountedFile, cores
from .sampling import TILE_PX, Picture

TILED, WHOLE, FILE = "tiled512", "whole", "file"


class BrokenCodec(InrwsiError):
    """A codec gave something that is not the picture: the run must not go on as if it had."""


class Reader(Protocol):
    """A coded file, opened by its path alone. A context manager.

    Attributes:
        wh: size of the picture in pixels, as the file says.
        bytes_read: from the file, since it was opened.
    """

    wh: tuple[int, int]

    @property
    def bytes_read(self) -> int: ...

    def read(self, window: Rect, downsample: int = 1) -> np.ndarray:
        """A window of level-0 pixels inside the picture: (h // downsample, w // downsample, 3) uint8.

        Corner and size are multiples of `downsample`, a power of two.
        """
        ...

    def region_bytes(self, regions: Sequence[Rect]) -> tuple[int, ...] | None:
        """Bytes that code each region of the picture alone; None where the file cannot tell."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Codec(Protocol):
    """Something to compare.

    Attributes:
        name: as typed after `--codec`.
        about: what it is and how it is set, one line for a reader.
        layouts: the ways in which it can make a file.
        ladder, quick_ladder: values to run, from few bits to many.
        max_side_px: of the picture (of a tile, in the tiled layout).
        suffix: of its files.
        ours: a model of this project: its encoding, which is a fit, is not repeated for a spread of times, and its file
            is kept for the report.
    """

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str: ...

    @property
    def layouts(self) -> tuple[str, ...]: ...

    @property
    def ladder(self) -> tuple[float, ...]: ...

    @property
    def quick_ladder(self) -> tuple[float, ...]: ...

    @property
    def max_side_px(self) -> int: ...

    @property
    def suffix(self) -> str: ...

    @property
    def ours(self) -> bool: ...

    def label(self, value: float) -> str:
        """The setting as it stands in tables, e.g. "q=60"."""
        ...

    def versions(self) -> dict[str, str]:
        """Libraries that do the work, and their versions as they say themselves."""
        ...

    def encode(self, picture: Picture, layout: str, value: float, path: Path) -> None: ...

    def open(self, path: Path, layout: str) -> Reader: ...


@dataclass(frozen=True)
class StillCodec:
    """A still-picture codec of `imagecodecs`: one codestream for the whole picture, or one for each 512-pixel tile.

    Attributes:
        encoder: (pixels, value, threads) -> codestream. decoder: (codestream, threads) -> pixels.
        form: of the label, with a place for the value.
    """

    name: str
    about: str
    form: str
    ladder: tuple[float, ...]
    quick_ladder: tuple[float, ...]
    encoder: Callable[[np.ndarray, float, int], bytes | bytearray]
    decoder: Callable[[bytes, int], np.ndarray]
    libraries: tuple[str, ...]
    layouts: tuple[str, ...] = (TILED, WHOLE)
    max_side_px: int = 65_500
    suffix: str = ".coded"
    ours: bool = False

    def label(self, value: float) -> str:
        return self.form.format(value)

    def versions(self) -> dict[str, str]:
        return imagecodecs_versions(self.libraries)

    def encode(self, picture: Picture, layout: str, value: float, path: Path) -> None:
        if layout == WHOLE:
            path.write_bytes(self.encoder(picture.pixels, value, cores()))
        else:
            tilepack.write(path, picture.pixels, TILE_PX, lambda t: self.encoder(t, value, 1), threads=cores())

    def open(self, path: Path, layout: str) -> Reader:
        return _WholeReader(path, self.decoder) if layout == WHOLE else _TiledReader(path, self.decoder)


class PillowCodec(StillCodec):
    """One that Pillow has more settings of."""

    def versions(self) -> dict[str, str]:
        return {"pillow": PIL.__version__} | {f"pillow's {n}": str(features.version(n)) for n in self.libraries}


def imagecodecs_versions(libraries: Sequence[str]) -> dict[str, str]:
    """What the libraries inside imagecodecs say of themselves: {"libavif": "1.4.0", ...}."""
    found = {}
    for library in libraries:
        text = getattr(imagecodecs, f"{library}_version")()
        for part in text.split(", "):
            name, _, number = part.partition(" ")
            found[name] = number
    return found


class _TiledReader:
    """A tile pack."""

    def __init__(self, path: Path, decoder: Callable[[bytes, int], np.ndarray]) -> None:
        self._file = CountedFile(path)
        self._pack = tilepack.TilePack(open_counted(self._file))
        self._decoder = decoder
        self.wh = self._pack.wh

    @property
    def bytes_read(self) -> int:
        return self._file.bytes_read

    def read(self, window: Rect, downsample: int = 1) -> np.ndarray:
        return area_mean(self._pack.read(window, lambda d: self._decoder(d, 1), threads=cores()), downsample)

    def region_bytes(self, regions: Sequence[Rect]) -> tuple[int, ...] | None:
        lengths = self._pack.lengths()
        return tuple(int(lengths[r.y // TILE_PX, r.x // TILE_PX]) for r in regions)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


class _WholeReader:
    """One codestream: any window costs the whole of it."""

    def __init__(self, path: Path, decoder: Callable[[bytes, int], np.ndarray]) -> None:
        self._file = CountedFile(path)
        self._pixels = decoder(self._file.read(), cores())
        if self._pixels.ndim != 3:
            raise BrokenCodec(f"{path}: decodes to an array of shape {self._pixels.shape}, not to (h, w, 3)")
        self.wh = (self._pixels.shape[1], self._pixels.shape[0])

    @property
    def bytes_read(self) -> int:
        return self._file.bytes_read

    def read(self, window: Rect, downsample: int = 1) -> np.ndarray:
        return area_mean(self._pixels[window.y : window.y + window.h, window.x : window.x + window.w], downsample)

    def region_bytes(self, regions: Sequence[Rect]) -> tuple[int, ...] | None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def open_counted(file: CountedFile) -> tilepack.ByteRanges:
    """The counted file as ranges of bytes."""
    return tilepack.ByteRanges(file, file.name, owned=False)  # type: ignore[arg-type]


def area_mean(pixels: np.ndarray, downsample: int) -> np.ndarray:
    """Means over squares of `downsample` pixels, rounded half up; a remainder at the right and bottom is cut off."""
    if downsample == 1:
        return pixels
    d = downsample
    h, w = pixels.shape[0] // d, pixels.shape[1] // d
    total = pixels[: h * d, : w * d].reshape(h, d, w * d, 3).sum(axis=1, dtype=np.uint32)
    total = total.reshape(h, w, d, 3).sum(axis=2, dtype=np.uint32)
    return ((total + d * d // 2) // (d * d)).astype(np.uint8)


def _jpeg(subsampling: str) -> Callable[[np.ndarray, float, int], bytes | bytearray]:
    return lambda x, q, _: imagecodecs.jpeg8_encode(x, int(q), subsampling=subsampling, optimize=True)


def _avif_for_psnr(rgb: np.ndarray, quality: float, threads: int) -> bytes:
    out, how = io.BytesIO(), {"codec": "aom", "advanced": {"tune": "psnr"}}
    Image.fromarray(rgb).save(
        out, "AVIF", quality=int(quality), speed=4, subsampling="4:4:4", max_threads=threads, **how
    )
    return out.getvalue()


STILL_CODECS: tuple[StillCodec, ...] = (
    StillCodec(
        "jpeg-420",
        "JPEG, chroma halved, optimised Huffman tables",
        "q={:g}",
        (10, 25, 50, 75, 90),
        (25, 60, 90),
        _jpeg("420"),
        lambda data, _: imagecodecs.jpeg8_decode(data),
        ("jpeg8",),
    ),
    StillCodec(
        "jpeg-444",
        "JPEG, chroma at full resolution, optimised Huffman tables",
        "q={:g}",
        (10, 25, 50, 75, 90),
        (25, 60, 90),
        _jpeg("444"),
        lambda data, _: imagecodecs.jpeg8_decode(data),
        ("jpeg8",),
    ),
    StillCodec(
        "jpeg2000",
        "JPEG 2000 part 1, irreversible 9/7, colour transform, to a target PSNR",
        "{:g} dB",
        (27, 30, 33, 37, 41),
        (28, 33, 39),
        lambda x, db, threads: imagecodecs.jpeg2k_encode(
            x, int(db), reversible=False, codecformat="j2k", numthreads=threads
        ),
        lambda data, threads: imagecodecs.jpeg2k_decode(data, numthreads=threads),
        ("jpeg2k",),
    ),
    StillCodec(
        "htj2k",
        "High-throughput JPEG 2000 by OpenJPH, irreversible 9/7, one quantiser step; decoded by OpenJPEG",
        "step={:g}",
        (0.2, 0.1, 0.05, 0.025, 0.0125),
        (0.15, 0.05, 0.015),
        lambda x, step, _: imagecodecs.htj2k_encode(x, step, reversible=False),
        # Not htj2k_decode: it lets values beyond 255 wrap around to black (imagecodecs 2026.3.6, OpenJPH 0.26.3).
        lambda data, threads: imagecodecs.jpeg2k_decode(data, numthreads=threads),
        ("htj2k", "jpeg2k"),
    ),
    StillCodec(
        "jpegxl",
        "JPEG XL, effort 7, by Butteraugli distance",
        "d={:g}",
        (9, 5, 2.5, 1.2, 0.5),
        (6, 2.5, 0.7),
        lambda x, d, threads: imagecodecs.jpegxl_encode(x, distance=d, effort=7, numthreads=threads),
        lambda data, threads: imagecodecs.jpegxl_decode(data, numthreads=threads),
        ("jpegxl",),
    ),
    StillCodec(
        "avif",
        "AVIF (AV1 by libaom), 4:4:4, speed 4",
        "q={:g}",
        (25, 40, 55, 70, 83),
        (30, 55, 80),
        lambda x, q, threads: imagecodecs.avif_encode(x, int(q), speed=4, pixelformat="444", numthreads=threads),
        lambda data, threads: imagecodecs.avif_decode(data, numthreads=threads),
        ("avif",),
    ),
    PillowCodec(
        "avif-psnr",
        "AVIF (AV1 by libaom), 4:4:4, speed 4, tune=psnr: without it libavif 1.4 tunes for eyes, with iq",
        "q={:g}",
        (8, 20, 34, 50, 66),
        (15, 30, 55),
        _avif_for_psnr,
        lambda data, threads: imagecodecs.avif_decode(data, numthreads=threads),
        ("avif",),
    ),
    StillCodec(
        "webp",
        "WebP, lossy (4:2:0), method 6",
        "q={:g}",
        (5, 25, 55, 80, 92),
        (15, 60, 90),
        lambda x, q, _: imagecodecs.webp_encode(x, q, lossless=False, method=6),
        lambda data, _: imagecodecs.webp_decode(data),
        ("webp",),
        max_side_px=16_383,
    ),
    StillCodec(
        "jpegxl-lossless",
        "JPEG XL without loss, effort 5: for scale",
        "lossless",
        (0,),
        (0,),
        lambda x, _, threads: imagecodecs.jpegxl_encode(x, lossless=True, effort=5, numthreads=threads),
        lambda data, threads: imagecodecs.jpegxl_decode(data, numthreads=threads),
        ("jpegxl",),
        layouts=(TILED,),
    ),
)
