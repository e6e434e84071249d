"""What a .cinr file costs and what it keeps, measured on the file itself against its source, a strip at a time."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from inrwsi.decode import Decoder
from inrwsi.errors import UsageError
from inrwsi.formats.source import SlideSource
from inrwsi.metrics import SquaredError
from inrwsi.progress import Progress, Report
from inrwsi.tissue import tissue_mask

OVERVIEW_PX = 1024
STRIP_ROWS = 256
MOST_PX = 2**26


def measure_file(
    source: SlideSource,
    cinr_path: Path,
    *,
    device: str = "auto",
    most_px: int = MOST_PX,
    progress: Report | None = None,
) -> dict[str, Any]:
    """Sizes, rates, PSNR and decoding time of `cinr_path`, which was encoded from `source`.

    The file is decoded at full resolution in strips of 256 rows. A slide of more than `most_px` pixels is measured on
    every n-th strip, evenly from top to bottom; `measured_px` says how much that was. Memory is a few strips.

    Returns:
        source_bytes, cinr_bytes: of the files on the disk.
        slide_px, tissue_px: pixels of the slide, and those under its tissue map (the map is exact on measured strips,
            and counted in its own cells for the rest).
        bpp, tissue_bpp: bits of the whole file a pixel of slide, and a pixel of tissue (None without tissue).
        psnr_tissue_db, psnr_slide_db: RGB PSNR, peak 255, over the measured pixels; None where nothing is measured
            or nothing differs.
        measured_px, decode_seconds, decode_mpx_s: pixels decoded for it, and how fast (reading the source not counted).

    Raises:
        UsageError: the file is not of the source's size.
    """
    tissue = tissue_mask(source.overview(OVERVIEW_PX), source.background)
    tissue_error, slide_error = SquaredError(), SquaredError()
    every = math.ceil(source.width * source.height / most_px)
    measured_px, seconds = 0, 0.0
    with Decoder(cinr_path, device=device) as decoder:
        if decoder.header.slide.l0_wh != (source.width, source.height):
            raise UsageError(f"{cinr_path}: is not of {source.name}: their sizes differ")
        for y in range(0, source.height, STRIP_ROWS * every):
            wh = (source.width, min(STRIP_ROWS, source.height - y))
            began = time.perf_counter()
            decoded = decoder.read_region((0, y), wh)
            seconds += time.perf_counter() - began
            original = source.read((0, y), wh)
            slide_error.add(original, decoded)
            tissue_error.add(original, decoded, _mask_strip(tissue, source, y, wh[1]))
            measured_px += wh[0] * wh[1]
            if progress is not None:
                progress(Progress("measure", y + wh[1], source.height, "rows", f"{slide_error.psnr_db:.2f} dB"))
    slide_px = source.width * source.height
    tissue_px = round(float(tissue.mean()) * slide_px)
    cinr_bits = 8 * os.stat(cinr_path).st_size
    return {
        "source_bytes": source.bytes_on_disk,
        "cinr_bytes": cinr_bits // 8,
        "slide_px": slide_px,
        "tissue_px": tissue_px,
        "bpp": cinr_bits / slide_px,
        "tissue_bpp": cinr_bits / tissue_px if tissue_px else None,
        "psnr_tissue_db": _finite(tissue_error.psnr_db),
        "psnr_slide_db": _finite(slide_error.psnr_db),
        "measured_px": measured_px,
        "decode_seconds": seconds,
        "decode_mpx_s": measured_px / 1e6 / seconds,
    }


def _mask_strip(tissue: np.ndarray, source: SlideSource, y: int, rows: int) -> np.ndarray:
    """(rows, width) bool: the tissue map (h, w), its cells grown to level-0 pixels, from row `y` on."""
    h, w = tissue.shape
    row_of = np.arange(y, y + rows) * h // source.height
    column_of = np.arange(source.width) * w // source.width
    return tissue[row_of[:, None], column_of[None, :]]


def _finite(value_db: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value_db if math.isfinite(value_db) else None
