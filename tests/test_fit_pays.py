"""On a slide unlike those that the released prior was trained on, the fit makes the file smaller at equal quality."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from inrwsi import encode_fit
from inrwsi.fit import slide
from inrwsi.formats.container import Container
from inrwsi.sample import sample_region
from tests.octaves_encoded import make

SIDE = 512
QUALITY = 70.0


def made(pixels: np.ndarray, out: Path, quality: float, effort: str) -> tuple[float, float]:
    """A file that holds all its networks, whichever they are: the logarithm of its bytes, and PSNR in dB."""
    report = make(pixels, out, quality=quality, effort=effort, self_contained=True)
    return math.log(chunk_bytes(out)), report.psnr_db


def chunk_bytes(path: Path) -> int:
    """Of all payloads."""
    with Container.open(path) as container:
        return sum(n for octave in container.header.grid.octaves for _, n, _ in container.entries(octave))


def test_a_fit_pays_on_a_slide_that_the_prior_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 batches of 2 x 128 x 128 pixels, so few that it takes seconds, of the 390 of 4 x 256 x 256 on a slide."""
    for module in (encode_fit, slide):
        monkeypatch.setattr(module, "CROP_PX", 128)
        monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(encode_fit, "LEAST_PX", 0)
    monkeypatch.setattr(encode_fit, "LEAST_STEPS", 40)
    monkeypatch.setattr(encode_fit, "QUICK", ())  # nothing but the networks is different
    pixels = sample_region((900, 900), (SIDE, SIDE), size_wh=(2048, 2048), seed=1)
    finer, coarser = (made(pixels, tmp_path / f"{q}.cinr", q, "fast") for q in (QUALITY + 2, QUALITY - 2))
    fitted, psnr_db = made(pixels, tmp_path / "fitted.cinr", QUALITY, "default")
    share = (psnr_db - coarser[1]) / (finer[1] - coarser[1])
    assert 0 < share < 1
    at_equal_psnr = coarser[0] + share * (finer[0] - coarser[0])
    assert 100 * math.expm1(fitted - at_equal_psnr) < -1.0
