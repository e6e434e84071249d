"""How many regions to measure: as many as make the BD-rate of two cheap and very different codecs certain enough."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from inrwsi.formats.source import SlideSource
from inrwsi.geometry import Rect
from inrwsi.metrics import SquaredError

from . import intervals
from .codecs import STILL_CODECS, TILED, StillCodec
from .quality import psnr_db
from .results import Point, Regions
from .sampling import (
    LEAST_REGIONS,
    TILE_PX,
    Cells,
    Picture,
    find_cells,
    full_picture,
    rectangle,
    sampled_picture,
)

COUNTS = (16, 20, 24, 30, 36, 42, 48, 56, 64)
PAIR = ("jpeg2000", "jpeg-420")


def choose_picture(
    source: SlideSource,
    folder: Path,
    *,
    seed: int,
    full: bool = False,
    most: int | None = None,
    was_halved: bool = False,
) -> Picture:
    """The pixels to measure: all of them, or a sample as large as the pilot says.

    Args:
        folder: for the pilot's files; made if it is not there.
        full: the whole slide. A slide of fewer than `LEAST_REGIONS` whole squares with tissue is always measured whole.
        most: so many regions and no pilot.
    """
    cells = find_cells(source)
    if full or len(cells.ij) < LEAST_REGIONS:
        return full_picture(source, cells, was_halved=was_halved)
    folder.mkdir(parents=True, exist_ok=True)
    count = most or pilot_count(source, cells, folder, seed)
    return sampled_picture(source, cells, count, seed, was_halved=was_halved)


def pilot_count(source: SlideSource, cells: Cells, folder: Path, seed: int) -> int:
    """Regions for a standard error of the BD-rate under `intervals.AIM_SE_PERCENT`, by coding the largest sample."""
    available = min(len(cells.ij), COUNTS[-1])
    choices = [c for c in COUNTS if c <= available] or [available]
    pool = sampled_picture(source, cells, choices[-1], seed)
    codecs = [next(c for c in STILL_CODECS if c.name == name) for name in PAIR]
    test, reference = ([_point(c, pool, v, folder / "pilot.coded") for v in c.quick_ladder] for c in codecs)
    columns, rows = rectangle(intervals.least_count(test, reference, choices, seed))
    return columns * rows


def _mse(picture: Picture, region: Rect, decoded: np.ndarray) -> float:
    error = SquaredError()
    error.add(picture.pixels[region.y : region.y + region.h, region.x : region.x + region.w], decoded)
    return error.mse


def _point(codec: StillCodec, picture: Picture, value: float, path: Path) -> Point:
    """Rate and PSNR alone."""
    codec.encode(picture, TILED, value, path)
    with codec.open(path, TILED) as reader:
        sizes = reader.region_bytes(picture.regions) or ()
        mse = tuple(_mse(picture, region, reader.read(region)) for region in picture.regions)
    file_bytes = os.stat(path).st_size
    path.unlink()
    pixels = len(picture.regions) * TILE_PX**2
    return Point(
        codec=codec.name,
        layout=TILED,
        setting=codec.label(value),
        file_bytes=file_bytes,
        pixels=pixels,
        tissue_pixels=picture.sample.tissue_pixels,
        bpp=8 * file_bytes / pixels,
        tissue_bpp=None,
        lossless=False,
        metrics={"psnr_rgb": psnr_db(sum(mse) / len(mse))},
        regions=Regions(sizes, mse, ()),
    )
