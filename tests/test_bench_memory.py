"""The benchmark of memory: a small slide first, for what is compiled; then both slides, and the larger's ratios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from inrwsi.benchmarks import memory, results
from inrwsi.benchmarks.memory import MemoryRun


def test_both_slides_are_measured_after_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    peaks = iter((1, 900, 700, 500, 400, 550, 420))  # in MB: of what is compiled, and then of the slides

    def peak_of(arguments: list[str]) -> tuple[int, float]:
        out = Path(arguments[arguments.index("-o") + 1])
        out.write_bytes(b"12345")
        asked.append((arguments[0], out.name))
        return next(peaks) * 2**20, 2.0

    monkeypatch.setattr(memory, "peak_of", peak_of)
    slides = []
    for name, side in (("a", 300), ("b", 600)):
        slides.append(tmp_path / f"{name}.tiff")
        tifffile.imwrite(slides[-1], np.zeros((side, side, 3), np.uint8), photometric="rgb", tile=(256, 256))
    arguments = ["--slide", str(slides[0]), "--repeated", str(slides[1]), "--out", str(tmp_path / "memory.json")]
    found = CliRunner().invoke(memory.main, arguments)
    assert found.exit_code == 0, found.output
    assert asked == [
        *(("sample", "small.tiff"), ("encode", "small.cinr"), ("decode", "small.out.tif")),
        *(("encode", "a.cinr"), ("decode", "a.out.tif"), ("encode", "b.cinr"), ("decode", "b.out.tif")),
    ]
    run = results.load(MemoryRun, tmp_path / "memory.json")
    assert [(p.what, p.width, p.peak_bytes >> 20, p.output_bytes) for p in run.peaks] == [
        *(("encode", 300, 500, 5), ("decode", 300, 400, 5), ("encode", 600, 550, 5), ("decode", 600, 420, 5)),
    ]
    assert (run.encode_ratio, run.decode_ratio, run.within) == (1.1, 1.05, True)
