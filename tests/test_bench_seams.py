"""Seams: error at chunk borders against the rest and against the same pixels, and what README says of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrwsi.benchmarks import readme_chunks, results, seams
from inrwsi.benchmarks.memory import MemoryRun, Peak
from inrwsi.benchmarks.probe import library_versions
from inrwsi.benchmarks.record import head
from inrwsi.fields.octaves_model import CHUNK_PX
from inrwsi.sample import sample_region

SIDE_PX = 4 * CHUNK_PX


def test_borders_are_weighed_against_the_same_pixels() -> None:
    rng = np.random.default_rng(1)
    what = rng.uniform(1, 50, (SIDE_PX + seams.MOVED_PX,) * 2)  # as hard or easy as the picture happens to be there
    near = seams.near_borders(SIDE_PX)
    assert near.sum() == SIDE_PX**2 - (SIDE_PX - 4 * 2 * seams.NEAR_PX) ** 2
    factor = np.where(near, 1.1, 1.0)
    one, moved = what[:SIDE_PX, :SIDE_PX] * factor, what[seams.MOVED_PX :, seams.MOVED_PX :] * factor
    assert seams.same_pixels(one, moved) == pytest.approx(1.1, abs=1e-9)
    assert seams.same_pixels(one / factor, moved / factor) == pytest.approx(1.0, abs=1e-9)


def test_no_seam_in_a_generated_slide() -> None:
    side_px = seams.SIDE_PX // 2 + seams.MOVED_PX
    rgb = sample_region((1000, 900), (side_px, side_px), size_wh=(4096, 4096), seed=3)
    parts = rgb[: -seams.MOVED_PX, : -seams.MOVED_PX], rgb[seams.MOVED_PX :, seams.MOVED_PX :]
    error, moved = (((p.astype(np.float64) - seams.coded(p, 60.0)) ** 2).mean(2) for p in parts)
    assert 0.9 < seams.same_pixels(error, moved) < 1.02  # 1.14 with all bits counted at borders too


def test_readme_says_what_the_records_say(tmp_path: Path) -> None:
    found = (seams.Seam("a.png", 40.0, 31.5, 1.011, 1.02), seams.Seam("b.png", 40.0, 31.5, 0.981, 1.0))
    record = head("python -m benchmarks.seams", library_versions())
    run = seams.SeamsRun(
        **record,
        chunk_px=256,
        near_px=2,
        crop_px=1024,
        seams=found,
        mean_ratio=0.996,
        mean_same_pixels=1.01,
        worst="a.png, quality 40",
        within=True,
    )
    results.save(run, tmp_path / "seams.json")
    peaks = tuple(
        Peak(what, slide, n, n, peak, 1.0, 1234)
        for slide, n in (("s.tiff", 10), ("s-2x2.tiff", 20))
        for what, peak in (("encode", n * 2**20), ("decode", 5 * 2**20))
    )
    results.save(
        MemoryRun(**record, effort="fast", quality=55.0, peaks=peaks, encode_ratio=2.0, decode_ratio=1.0, within=False),
        tmp_path / "memory.json",
    )
    borders, memory = readme_chunks.blocks(tmp_path)
    assert "is 99.6 % that of the rest, and 101.0 % that of the very same pixels" in borders.text
    assert "the means of 2 crops at 1 qualities" in borders.text
    assert "goes from 98.1 % to 101.1 % (a.png, quality 40)" in borders.text
    assert "2.000 and 1.000 times the smaller's" in memory.text
    assert memory.table is not None
    assert memory.table.rows[2] == ("s-2x2.tiff", "20 x 20", "encode", "20 MB", "1,234")
