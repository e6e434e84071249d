"""BD-rates, means, bars and times of the bench of model `octaves`, against sums that can be done by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import imagecodecs
import numpy as np
import pytest

from inrwsi.benchmarks import octaves_speed
from inrwsi.benchmarks.octaves_compare import compare, compare_all, means, value_at, verdicts
from inrwsi.benchmarks.octaves_results import CROP, HELD_OUT, NEVER, SLIDE, TISSUE, TRAINED, FilePoint
from inrwsi.geometry import Rect
from inrwsi.sample import sample_region
from tests.octaves_run import OURS, RATES, point, points, speed, subject

# Sums by hand.


def test_half_the_bits_is_minus_fifty_percent() -> None:
    for metric in ("psnr_rgb", "ms_ssim"):
        found = compare(points("a", OURS, 0.5), points("a", "avif", 1), CROP, metric)
        assert found.percent == pytest.approx(-50, abs=0.5)
    assert found.peer_bpp is not None
    assert found.peer_bpp[0] == pytest.approx(0.3, rel=0.01)


def test_only_the_peers_rates_from_03_to_2_count() -> None:
    theirs = points("a", "avif", 1)
    # Ours costs a tenth of it above the peer's 2 bpp and below its 0.3, and the same between.
    ours = [
        point("a", OURS, CROP, b, 30 + 3 * np.log2(r)) for r, b in zip(RATES, (0.02, *RATES[1:5], 2.1), strict=True)
    ]
    found = compare(ours, theirs, CROP, "psnr_rgb")
    # PCHIP's slope at an end is a mean of both sides, so the curves differ a little next to it.
    assert found.percent == pytest.approx(0, abs=5)
    assert found.range_db == pytest.approx((30 + 3 * np.log2(0.3), 33))
    assert found.peer_bpp == pytest.approx((0.3, 2.0))
    assert found.complete
    short = compare(ours[:4], theirs, CROP, "psnr_rgb")
    assert not short.complete
    assert short.range_db is not None
    assert short.range_db[1] == 30


def test_what_cannot_be_compared_says_why() -> None:
    theirs = points("a", "avif", 1)
    assert "at least 3 are needed" in compare(points("a", OURS, 1)[:2], theirs, CROP, "psnr_rgb").refused
    far = [replace(p, figures=(replace(p.figures[0], psnr_db=p.figures[0].psnr_db + 30),)) for p in theirs]
    assert "0.00 dB in common at the peer's 0.30 to 2.00 bpp" in compare(far, theirs, CROP, "psnr_rgb").refused
    blind = [replace(p, figures=(replace(p.figures[0], ms_ssim=None),)) for p in theirs]
    assert compare(blind, theirs, CROP, "ms_ssim").refused == "MS-SSIM was not measured"


def test_over_a_whole_slide_the_same_files_count() -> None:
    def both(codec: str, by: float) -> list[FilePoint]:
        return [
            replace(p, figures=(p.over(TISSUE), replace(p.over(TISSUE), area=SLIDE, bpp=p.over(TISSUE).bpp / 4)))
            for p in points("a", codec, by, TISSUE)
        ]

    found = compare(both(OURS, 0.5), both("avif", 1), SLIDE, "psnr_rgb")
    assert found.percent == pytest.approx(-50, abs=0.5)
    assert found.range_db is not None
    assert found.range_db[0] == pytest.approx(30 + 3 * np.log2(0.3))
    assert found.peer_bpp is not None
    assert found.peer_bpp[0] == pytest.approx(0.3 / 4)


def test_means_name_the_worst_and_bars_are_five_points_weaker_on_held_out_images() -> None:
    factors = {"a": 0.5, "b": 0.6, "c": 0.94, "d": 0.97}
    groups = {"a": TRAINED, "b": TRAINED, "c": HELD_OUT, "d": NEVER}
    every = [p for n, by in factors.items() for p in (*points(n, OURS, by), *points(n, "avif", 1))]
    found = means(compare_all(every, OURS), [subject(n, g) for n, g in groups.items()])
    rows = {m.group: m for m in found if (m.peer, m.metric) == ("avif", "psnr_rgb")}
    assert rows["all"].percent == pytest.approx(-24.75, abs=0.5)
    assert (rows["all"].worst, rows["all"].count, rows["all"].of) == ("d", 4, 4)
    assert rows["unseen"].percent == pytest.approx(-4.5, abs=0.5)
    bars = {v.what: v for v in verdicts(found, "fast", None)}
    assert bars["bits at equal PSNR, fast, crops, all, avif, %"].met
    held_out = bars["bits at equal PSNR, fast, crops, held out, avif, %"]
    assert (held_out.must, held_out.met) == (0.0, True)
    assert "worst d" in bars["bits at equal PSNR, fast, crops, all, avif, %"].note
    assert bars["bits at equal MS-SSIM, fast, crops, all, avif, %"].met


def test_a_mean_says_how_many_it_is_of_and_how_far_they_reach() -> None:
    """One image's curve of the peer is too short to be compared: it is counted, and not in the mean."""
    every = [*points("a", OURS, 0.8), *points("a", "avif", 1), *points("b", OURS, 0.5), *points("b", "avif", 1)[:2]]
    (found,) = [
        m
        for m in means(compare_all(every, OURS), [subject("a", NEVER), subject("b", NEVER)])
        if (m.metric, m.group) == ("psnr_rgb", "all")
    ]
    assert (found.count, found.of, found.worst) == (1, 2, "a")
    assert found.percent == pytest.approx(-20, abs=0.5)
    assert found.peer_bpp == pytest.approx((0.3, 2.0), rel=0.01)


def test_a_point_that_another_betters_is_left_out() -> None:
    """A codec's setting for fewest bits may give less quality for more bits than the next: nobody would use it."""
    theirs = points("a", "avif", 1)
    worse = replace(
        theirs[0],
        figures=(
            replace(
                theirs[0].figures[0], bpp=theirs[0].figures[0].bpp * 1.001, psnr_db=theirs[0].figures[0].psnr_db - 0.02
            ),
        ),
    )
    found = compare(points("a", OURS, 0.5), [*theirs, worse], CROP, "psnr_rgb")
    assert found.percent == pytest.approx(-50, abs=0.5)


def test_a_slides_bars_have_aims() -> None:
    every = [*points("a", "octaves default", 0.8, TISSUE), *points("a", "avif", 1, TISSUE)]
    found = means(compare_all(every, "octaves default"), [subject("a", NEVER)])
    (bar,) = [v for v in verdicts(found, "default", None) if "PSNR" in v.what]
    assert (bar.must, bar.met, bar.aim, bar.aim_met) == (-12.0, True, -25.0, False)


def test_a_setting_lies_between_points() -> None:
    theirs = points("a", "avif", 1)
    assert value_at(theirs, CROP, 30) == pytest.approx(30)
    assert value_at(theirs, CROP, 99) == pytest.approx(30 + 3 * np.log2(3))


# Times.


def test_openjpeg_comes_to_the_same_psnr(tmp_path: Path) -> None:
    rgb = sample_region((900, 900), (256, 256), size_wh=(2048, 2048), seed=1)
    decoded = imagecodecs.jpeg2k_decode(octaves_speed.openjpeg_at(rgb, 33.6)).astype(float)
    assert 10 * np.log10(255**2 / np.mean((decoded - rgb) ** 2)) == pytest.approx(33.6, abs=0.15)
    assert len(octaves_speed.openjpeg_times(rgb, 33.6, tmp_path)) == octaves_speed.REPEATS
    assert list(tmp_path.iterdir()) == []


def test_views_are_of_all_octaves_and_between(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Rect, tuple[int, int]]] = []
    monkeypatch.setattr(octaves_speed, "read", lambda cinr, place, wh: asked.append((place, wh)))
    rgb = np.zeros((2100, 2600, 3), np.uint8)
    rgb[512:1024, 1024:1536] = np.random.default_rng(0).integers(0, 255, (512, 512, 3))
    found, places = octaves_speed.view_times(rgb, Path("x.cinr"))
    assert [(v.label, v.out_wh) for v in found] == [
        *((f"1:{s}", (512, 512)) for s in ("1", "1.5", "1.9", "2", "4")),
        ("whole", (512, 414)),
    ]
    assert places[0] == Rect(1024, 512, 512, 512)
    assert all(p.x % 512 == 0 and p.y % 512 == 0 and p.x + p.w <= 2600 and p.y + p.h <= 2100 for p, _ in asked)


def test_a_view_is_timed_beside_a_native_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is three times slower while one kind of view is timed does not make that view slower."""
    took = {512: 0.010, 768: 0.015, 973: 0.030, 1024: 0.020, 1100: 0.005}
    count = iter(range(10**6))

    def clock(work: Callable[[], int]) -> tuple[int, float]:
        side = work()
        return side, took[side] * (1.0, 3.0)[next(count) // 60 % 2]  # every other kind of view, its 30 pairs through

    monkeypatch.setattr(octaves_speed, "read", lambda cinr, place, wh: place.w)
    monkeypatch.setattr(octaves_speed, "timed", clock)
    found, _ = octaves_speed.view_times(np.zeros((1100, 1100, 3), np.uint8), Path("x.cinr"))
    assert {v.label: median(v.to_native) for v in found} == pytest.approx(
        {"1:1": 1, "1:1.5": 1.5, "1:1.9": 3, "1:2": 2, "whole": 0.5}
    )
    assert {len(v.ms) for v in found} == {30}


def test_the_native_view_beside_another_lies_in_it_where_most_is() -> None:
    rgb = np.zeros((2100, 2600, 3), np.uint8)
    rgb[512:1024, 1024:1536] = np.random.default_rng(0).integers(0, 255, (512, 512, 3))
    rgb[1536:2048, 1536:2048] = np.random.default_rng(0).integers(0, 100, (512, 512, 3))
    assert octaves_speed.native_in(rgb, Rect(0, 0, 2600, 2100)) == Rect(1024, 512, 512, 512)
    assert octaves_speed.native_in(rgb, Rect(1024, 1024, 1024, 1024)) == Rect(1536, 1536, 512, 512)
    assert octaves_speed.native_in(rgb, Rect(8, 16, 300, 200)) == Rect(8, 16, 300, 200)


def test_bars_of_times() -> None:
    bars = {v.what: v for v in verdicts([], "fast", speed())}
    assert bars["fast encodes, times AVIF's speed"].met
    cold = bars["cold 512x512, native, ms"]
    assert (cold.value, cold.met, cold.aim_met) == (30.0, True, False)
    slowest = bars["slowest view, times native"]
    assert (slowest.value, slowest.met, slowest.note) == (3.0, False, "1:1.9")
    in_ms = bars["slowest view, ms"]  # by the clock, of which a faster native view takes nothing away
    assert (in_ms.value, in_ms.must, in_ms.met) == (30.0, 200.0, True)
    assert bars["networks, kMAC a pixel"].met
    assert bars["entropy decoder, Msymbol/s a core"].met


def test_ends_of_a_curve_are_on_it_whatever_the_rounding() -> None:
    """A last point, through its rate's logarithm and back, lay beyond itself: the mean was no number."""
    ours = [point("a", "octaves default", CROP, r * 0.8, 30 + 3 * np.log2(r)) for r in (0.1, 0.3, 0.7, 1.9, 4.0)]
    for last in np.linspace(0.7, 1.9, 200):
        theirs = [point("a", "jpegxl", CROP, r, 30 + 3 * np.log2(r)) for r in (0.29, 0.5, float(last))]
        percent = compare(ours, theirs, CROP, "psnr_rgb").percent
        assert percent is None or percent == pytest.approx(-20, abs=1.5)
