"""What settings are worth: files of a generated crop, and means of known curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inrwsi.benchmarks import readme_chunks, results, settings
from inrwsi.benchmarks.settings import SettingPoint, SettingsRun, Worth, worth
from inrwsi.sample import sample_region


def points(image: str, variant: str, by: float) -> list[SettingPoint]:
    """3 dB of PSNR, and of MS-SSIM's, for twice the bits."""
    rates = (0.25, 0.5, 1.0, 2.0)
    return [
        SettingPoint(image, variant, n, 1, r * by, 30 + 3 * np.log2(r), 1 - 0.05 * 10 ** (-0.3 * np.log2(r)))
        for n, r in enumerate(rates)
    ]


def test_worth_is_that_of_the_curves() -> None:
    found = worth([p for i, by in (("a", 0.9), ("b", 0.8)) for p in (*points(i, "fast", 1), *points(i, "best", by))])
    assert [(w.image, w.variant) for w in found] == [("a", "best"), ("b", "best"), ("all", "best")]
    assert [w.psnr_percent for w in found] == pytest.approx([-10, -20, -15])
    assert [w.ms_ssim_percent for w in found] == pytest.approx([-10, -20, -15])


def test_points_are_of_files() -> None:
    rgb = sample_region((900, 900), (256, 256), size_wh=(2048, 2048), seed=1)
    made = {v: settings.point("a", rgb, v, 50.0) for v in settings.VARIANTS}
    fast, default, best = (made[v] for v in ("fast", "default", "best"))
    assert len({p.file_bytes for p in made.values()}) == len(made) == 5
    assert all(p.bpp == 8 * p.file_bytes / 256**2 for p in made.values())
    finer = settings.point("a", rgb, "fast", 54.0)
    slope = np.log(finer.file_bytes / fast.file_bytes) / (finer.psnr_db - fast.psnr_db)
    for refined in (default, best):  # fewer bytes than `fast` takes for their PSNR
        plain_bytes = fast.file_bytes * np.exp(slope * (refined.psnr_db - fast.psnr_db))
        assert refined.file_bytes < 0.995 * plain_bytes
    assert default.file_bytes not in (fast.file_bytes, best.file_bytes)
    assert made["fast, tune psnr"].psnr_db > made["fast, tune ms-ssim"].psnr_db
    assert 30 < fast.psnr_db < 45
    assert 0.9 < fast.ms_ssim < 1


def test_what_tunings_are_worth_is_told_of_the_means(tmp_path: Path) -> None:
    run = results.load(SettingsRun, settings.RESULTS / "settings.json")
    told = (("fast, tune psnr", -3.64, 22.0), ("fast, tune ms-ssim", 21.2, -13.46))
    others = tuple(w for w in run.worth if w.variant in ("default", "best"))
    means = tuple(Worth("all", *row) for row in told)
    results.save(
        replace(run, worth=(*others, Worth("a.png", "fast, tune psnr", 7, 7), *means)), tmp_path / "settings.json"
    )
    _, tuned = readme_chunks.blocks(tmp_path)
    assert tuned.markers == readme_chunks.TUNED
    assert tuned.text.startswith(
        "Bits beside the default's: `--tune psnr` -3.6 % at equal PSNR and +22.0 % at equal MS-SSIM; `--tune ms-ssim` "
        "+21.2 % at equal PSNR and -13.5 % at equal MS-SSIM; the means of 4 crops of 1024 px (`python -m benchmarks."
    )
