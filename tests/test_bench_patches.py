"""The benchmark of patches: the same ones of both files, ratios within a turn, and a record that can be read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image

from inrwsi.benchmarks import patches, results
from inrwsi.benchmarks.patches import PatchesRun, PatchSlide, PatchSpeed, Plan
from inrwsi.benchmarks.record import head
from inrwsi.benchmarks.results import Spread
from inrwsi.errors import UsageError
from inrwsi.sample import sample_region
from tests.test_source_levels import reduced, write_pyramid

WH = (640, 512)
GLASS_PX = 256  # at the right


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """32-pixel patches at downsample 2: 6 by 8 of tissue, 4 by 8 of glass."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    folder = tmp_path_factory.mktemp("patches")
    pixels = np.full((WH[1], WH[0], 3), 244, np.uint8)
    pixels[:, :-GLASS_PX] = sample_region((900, 900), (WH[0] - GLASS_PX, WH[1]), size_wh=(2048, 2048), seed=1)
    write_pyramid(folder / "slide.tif", [pixels, reduced(pixels, 4)], compression="zlib")
    with open_source(folder / "slide.tif") as source:
        encode(source, folder / "slide.cinr", EncodeOptions(effort="fast", quality=80, device="cpu"))
    small = Plan(folder / "slide.tif", folder / "slide.cinr", {"downsample": 2.0}, patch_px=32, min_tissue=0.4)
    return replace(small, patches=16, batch=4, workers=(0, 1), repeats=2)


def test_the_same_patches_of_tissue_in_both_orders(plan: Plan) -> None:
    corners = patches.choose(plan)
    assert [len(corners[order]) for order in ("grid", "random")] == [24, 24]  # 16, and 2 batches that do not count
    every = [[x, y] for y in range(0, WH[1], 64) for x in range(0, WH[0] - GLASS_PX, 64)]
    assert corners["grid"].tolist() == every[12:36]
    assert len({tuple(xy) for xy in corners["random"].tolist()}) == 24
    assert all(xy in every for xy in corners["random"].tolist())
    assert corners["random"].tolist() != sorted(corners["random"].tolist(), key=lambda xy: (xy[1], xy[0]))
    assert np.array_equal(patches.choose(plan)["random"], corners["random"])
    assert len(patches.choose(replace(plan, patches=10**6))["grid"]) == 48
    with pytest.raises(UsageError, match="has 48 patches of tissue, too few to time"):
        patches.choose(replace(plan, batch=24))


class Slow(torch.utils.data.Dataset[dict[str, Any]]):
    """Its first batches take long, the rest 5 ms a patch, by a clock of its own."""

    now_s = 7.0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.now_s += 0.05 if index < 8 else 0.005
        return {"image": torch.zeros(1)}

    def perf_counter(self) -> float:
        return self.now_s


def test_the_first_batches_do_not_count(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    monkeypatch.setattr(patches, "dataset", lambda *_, **__: slow)
    monkeypatch.setattr(patches, "time", slow)
    assert patches.patches_a_second(plan, "cinr", np.zeros((24, 2)), 0) == pytest.approx(200)  # all counted: 50


def test_ratios_are_of_one_turn(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of medians, 30 and 150: what slows the machine between turns is in neither's favour."""
    asked: list[tuple[str, int]] = []

    def made_up(_: Plan, reader: str, l0_xy: np.ndarray, workers: int) -> float:
        asked.append((reader, workers))
        return {"openslide": 100.0, "cinr": 20.0}[reader] * (1 + len(asked) // 2 % 2)

    monkeypatch.setattr(patches, "patches_a_second", made_up)
    seen: list[float] = []
    found = patches.measure(plan, "made up", lambda progress: seen.append(progress.done))
    assert asked == [("openslide", 0), ("cinr", 0)] * 2 + [("openslide", 1), ("cinr", 1)] * 2 + asked[8:]
    assert seen == list(range(9))
    first = found.speeds[0]
    assert (first.order, first.workers, first.patches) == ("grid", 0, 16)
    assert first.openslide_patches_s == Spread(100.0, 150.0, 200.0, 2)
    assert first.ratio == Spread(0.1, 0.25, 0.4, 2)


def test_a_run_and_its_record(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "quick", lambda self: replace(plan, patches=8, repeats=1))
    out = tmp_path / "new" / "patches.json"
    arguments = [
        "--slide",
        str(plan.slide),
        "--cinr",
        str(plan.cinr),
        "--downsample",
        "2",
        "--quick",
        "--out",
        str(out),
    ]
    found = CliRunner().invoke(patches.main, arguments)
    assert found.exit_code == 0, found.output
    run = results.load(cast(Any, PatchesRun), out)
    assert run.command == "python -m benchmarks.patches --slide slide.tif --cinr slide.cinr --downsample 2 --quick"
    assert [(s.order, s.workers) for s in run.speeds] == [("grid", 0), ("grid", 1), ("random", 0), ("random", 1)]
    for s in run.speeds:
        assert isinstance(s, PatchSpeed)
        assert s.ratio.median == pytest.approx(s.cinr_patches_s.median / s.openslide_patches_s.median, rel=1e-5)
        assert s.openslide_patches_s.median > 1
    assert (run.slide.level_downsamples, run.slide.tile_wh, run.slide.step) == ((1.0, 4.0), (256, 256), 2.0)
    assert run.slide.cinr_bytes == plan.cinr.stat().st_size
    assert 33 < run.slide.psnr_db < 60
    assert {"inrwsi", "openslide", "openslide-python", "torch"} <= run.versions.keys()
    assert run.settings["torch_threads"] == torch.get_num_threads()
    lines = found.stdout.splitlines()
    assert lines[:-1] == patches.table(run)
    assert lines[2].split()[:2] == ["grid", "0"]
    assert lines[-1] == str(out)


def test_what_is_printed_is_what_the_record_says(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = 3788.74996  # to seven digits 3788.75, which is printed as 3788.8
    spread = Spread(rate, rate, rate, 1)
    speeds = (PatchSpeed("grid", 0, 8, spread, spread, Spread(1.0, 1.0, 1.0, 1)),)
    slide = PatchSlide("slide.tif", 640, 512, 500_000, 100_000, (1.0, 4.0), (256, 256), 2.0, 46.3)
    made = PatchesRun(**head("made up", {}), slide=slide, settings={"patch_px": 32}, speeds=speeds)
    monkeypatch.setattr(patches, "measure", lambda *_: made)
    out = tmp_path / "patches.json"
    arguments = ["--slide", str(plan.slide), "--cinr", str(plan.cinr), "--downsample", "2", "--out", str(out)]
    found = CliRunner().invoke(patches.main, arguments)
    assert found.exit_code == 0, found.output
    row = next(line.split() for line in found.stdout.splitlines() if line.startswith("grid"))
    stored = json.loads(out.read_text())["speeds"][0]["openslide_patches_s"]["median"]
    assert stored == 3788.75
    assert row[2] == f"{stored:.1f}" == "3788.8"


def test_slides_that_would_make_no_fair_race(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "picture.png")
    tifffile.imwrite(tmp_path / "flat.tif", np.zeros((300, 400, 3), np.uint8), photometric="rgb", tile=(256, 256))
    for name, sentence in (
        ("missing.tif", "missing.tif"),
        ("picture.png", "picture.png: OpenSlide cannot open it"),
        ("flat.tif", "flat.tif: has no tiled pyramid, which OpenSlide is to be timed on"),
    ):
        found = CliRunner().invoke(
            patches.main, ["--slide", str(tmp_path / name), "--cinr", "a.cinr", "--downsample", "2"]
        )
        assert found.exit_code == 2
        assert sentence in found.stderr
        assert found.stderr.count("\n") == 1
