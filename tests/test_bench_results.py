"""A result is what was measured: strict both ways, whole or not at all, sizes never estimated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inrwsi.benchmarks import results
from inrwsi.benchmarks.results import BdRow, Machine, Point, Regions, Run, RunSet, Sample, Slide, Spread, Stratum, View
from inrwsi.config import ConfigError
from inrwsi.errors import UsageError


def point(codec: str = "avif") -> Point:
    return Point(
        codec,
        "tiled512",
        "q=60",
        12345,
        262144,
        200000,
        8 * 12345 / 262144,
        False,
        {"psnr_rgb": 34.56789},
        tissue_bpp=8 * 12345 / 200000,
        spectrum_ratio=(1.0, 0.5),
        encode_mpx_s=Spread(0.1, 0.2, 0.30000000004, 3),
        views=(View("20x", 1, (512, 512), Spread(1.0, 2.0, 3.0, 3), 4000),),
        regions=Regions((100, 200), (1.5, 2.5), ((0.9,) * 5, (0.8,) * 5)),
    )


def run(slide: str = "a.svs", rate: float | None = -25.0) -> Run:
    return Run(
        "inrwsi bench a.svs",
        "2026-01-01T00:00:00+00:00",
        Machine("Linux", "a cpu", 2, 8.0, "3.11.1"),
        {"imagecodecs": "1"},
        Slide(slide, 5000, 4000, 99, 0.25, False, 0.5),
        Sample("four", False, 0, 512, 40, (Stratum("edge", 40, 2),), ((0, 0), (512, 0)), (1024, 512), 200000, "ab"),
        {"quick": True, "codecs": {"avif": "an about"}},
        (point(),),
        (BdRow("avif", "tiled512", "jpeg-420", "tiled512", "psnr_rgb", rate, refused="" if rate else "no range"),),
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.json"
    saved = results.save(run(), path)
    back = results.load(Run, path)
    assert saved == back
    assert back.points[0].file_bytes == 12345
    assert (back.slide.mpp_um, back.slide.objective_power) == (0.5, None)
    assert back.points[0].metrics == {"psnr_rgb": 34.56789}
    assert back.points[0].regions == point().regions
    assert back.points[0].encode_mpx_s == Spread(0.1, 0.2, 0.3, 3)
    results.save(back, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert '"bytes": [100, 200]' in path.read_text()
    assert list(path.parent.iterdir()) == [path]


def test_a_run_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    results.save(run(), path)
    data = json.loads(path.read_text())
    data["points"][0]["file_bytes_estimate"] = 1
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"file_bytes_estimate.*is not a known key"):
        results.load(Run, path)
    with pytest.raises(UsageError, match="no such file"):
        results.load(Run, tmp_path / "absent.json")


def test_not_a_number_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    bad = Point("a", "tiled512", "q", 1, 1, 1, 8.0, False, {"psnr_rgb": float("nan")})
    with pytest.raises(ValueError, match="Out of range float"):
        results.save(bad, path)
    assert not path.exists()
    with pytest.raises(ConfigError, match="layout"):
        Point("a", "tiles", "q", 1, 1, 1, 8.0, False, {})


def test_the_mean_over_slides_counts_those_that_could_be_compared() -> None:
    runs = (run("a", -20.0), run("b", -40.0), run("c", None))
    (mean,) = results.mean_bd(runs)
    assert mean.mean_percent == -30
    assert mean.slides == {"a": -20.0, "b": -40.0}
    assert RunSet("x", runs, (mean,)).runs[2].bd[0].refused == "no range"
