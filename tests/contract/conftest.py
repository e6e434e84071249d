"""One slide twice: a TIFF pyramid, which OpenSlide reads, and the `.cinr` file that was made of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from ctypes import ArgumentError
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import ImageCms

import inrwsi
from inrwsi.options import EncodeOptions
from inrwsi.sample import sample_region

WH = (1024, 768)
LEVELS = 3
MPP_UM = 0.5
GLASS_PX = 256  # at the right: blank chunks


@dataclass(frozen=True)
class Pair:
    """The paths of the two files, and what level 0 was before JPEG: (h, w, 3) uint8."""

    tiff: Path
    cinr: Path
    pixels: np.ndarray


def slide_pixels() -> np.ndarray:
    pixels = np.full((WH[1], WH[0], 3), 255, np.uint8)
    pixels[:, :-GLASS_PX] = sample_region((900, 900), (WH[0] - GLASS_PX, WH[1]), size_wh=(4096, 4096), seed=1)
    return pixels


def halved(pixels: np.ndarray) -> np.ndarray:
    h, w = pixels.shape[:2]
    return pixels.reshape(h // 2, 2, w // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def write_pyramid(path: Path, pixels: np.ndarray, icc: bytes) -> None:
    """As OpenSlide wants it: a page a level, all but the first marked as reduced, of JPEG tiles."""
    with tifffile.TiffWriter(path) as tiff:
        for level in range(LEVELS):
            per_cm = 1e4 / MPP_UM / 2**level
            tiff.write(
                pixels,
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 95},
                subfiletype=1 if level else 0,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                iccprofile=icc,
                metadata=None,
            )
            pixels = halved(pixels)


@pytest.fixture(scope="session")
def icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory, icc: bytes) -> Pair:
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source

    folder = tmp_path_factory.mktemp("contract")
    made = Pair(folder / "slide.tif", folder / "slide.cinr", slide_pixels())
    write_pyramid(made.tiff, made.pixels, icc)
    with open_source(made.tiff) as source:
        encode(source, made.cinr, EncodeOptions(effort="fast", quality=95, device="cpu"))
    return made


@pytest.fixture(params=["openslide", "inrwsi"])
def slide(request: pytest.FixtureRequest, pair: Pair) -> Iterator[openslide.AbstractSlide]:
    """The one and the other, through the same function."""
    path = pair.tiff if request.param == "openslide" else pair.cinr
    opened = inrwsi.open_slide(path)
    assert type(opened).__name__ == {"openslide": "OpenSlide", "inrwsi": "CinrSlide"}[request.param]
    yield opened
    with suppress(ArgumentError):  # which OpenSlide raises where the test has closed it
        opened.close()


@pytest.fixture
def both(pair: Pair) -> Iterator[tuple[openslide.AbstractSlide, openslide.AbstractSlide]]:
    """(OpenSlide's, ours), to compare."""
    with inrwsi.open_slide(pair.tiff) as theirs, inrwsi.open_slide(pair.cinr) as ours:
        yield theirs, ours
