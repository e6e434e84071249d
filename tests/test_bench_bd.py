"""BD-rates against sums that can be done by hand, and against everything that must be refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inrwsi.benchmarks import bd, intervals
from inrwsi.benchmarks.results import Point, Regions

STRAIGHT = [(1.0, 30.0), (2.0, 33.0), (4.0, 36.0), (8.0, 39.0)]


def scaled(by: float) -> bd.Curve:
    return bd.curve([(r * by, q) for r, q in STRAIGHT])


def test_half_the_bits_everywhere_is_minus_fifty_percent() -> None:
    rate, common = bd.bd_rate(scaled(0.5), scaled(1))
    assert rate == pytest.approx(-50)
    assert common == (30, 39)
    back, _ = bd.bd_rate(scaled(1), scaled(0.5))
    assert back == pytest.approx(100)


def test_three_db_an_octave_is_three_db_of_quality() -> None:
    quality, common = bd.bd_quality(scaled(0.5), scaled(1))
    assert quality == pytest.approx(3)
    assert common == (1, 4)


def test_only_the_common_range_counts() -> None:
    # Equal to the reference up to 36 dB, where that ends, and then a fourfold of bits in one step.
    test = bd.curve([(1, 30), (2, 33), (4, 36), (16, 39)])
    rate, common = bd.bd_rate(test, bd.curve(STRAIGHT[:3]))
    assert common == (30, 36)
    # PCHIP's slope at 36 dB is a mean of both sides, so the curve bends a little below it; nothing above counts.
    assert abs(rate) < 1
    same, _ = bd.bd_rate(bd.curve(STRAIGHT[:3]), bd.curve(STRAIGHT))
    assert same == pytest.approx(0)


@pytest.mark.parametrize("seed", range(5))
def test_exchanging_the_codecs_inverts_the_ratio(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def any_curve() -> bd.Curve:
        return bd.Curve(
            tuple(np.cumsum(rng.uniform(0.2, 1, 5)).tolist()), tuple((30 + np.cumsum(rng.uniform(1, 3, 5))).tolist())
        )

    a, b = any_curve(), any_curve()
    forth, common = bd.bd_rate(a, b)
    back, same = bd.bd_rate(b, a)
    assert common == same
    assert (1 + forth / 100) * (1 + back / 100) == pytest.approx(1)
    assert bd.bd_quality(a, b)[0] == pytest.approx(-bd.bd_quality(b, a)[0])


def test_the_interpolant_is_fritsch_and_carlson_s() -> None:
    # Three points, slopes 1 and 3 of equal width: PCHIP's inner slope is their harmonic mean, 1.5; the ends' by the
    # three-point formula, (3 * 1 - 3) / 2 = 0 and (3 * 3 - 1) / 2 = 4. The integral of a Hermite cubic on [0, 1] is
    # (y0 + y1) / 2 + (s0 - s1) / 12.
    first = (0 + 1) / 2 + (0 - 1.5) / 12
    second = (1 + 4) / 2 + (1.5 - 4) / 12
    test = bd.Curve((1.0, 10.0, 10000.0), (30.0, 31.0, 32.0))
    flat = bd.Curve((1.0, 1.0000001, 1.0000002), (30.0, 31.0, 32.0))
    rate, _ = bd.bd_rate(test, flat)
    assert math.log10(1 + rate / 100) == pytest.approx((first + second) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (STRAIGHT[:2], "2 points"),
        ([(1, 30), (2, 29), (4, 36)], "does not rise"),
        ([(1, 30), (1, 31), (4, 36)], "does not rise"),
        ([(1, 30), (2, math.inf), (4, 36)], "not a finite number"),
        ([(1, 30), (2, math.nan), (4, 36)], "not a finite number"),
        ([(0, 30), (2, 33), (4, 36)], "not a finite number"),
    ],
)
def test_what_is_no_curve_is_refused(points: list[tuple[float, float]], why: str) -> None:
    with pytest.raises(bd.NoCommonRange, match=why):
        bd.curve(points)


def test_too_little_in_common_is_refused_not_extrapolated() -> None:
    above = bd.curve([(r, q + 7.5) for r, q in STRAIGHT])
    with pytest.raises(bd.NoCommonRange, match=r"1\.50 dB in common; at least 2 dB"):
        bd.bd_rate(above, bd.curve(STRAIGHT))
    with pytest.raises(bd.NoCommonRange, match=r"factor of 1\.5"):
        bd.bd_quality(scaled(7), scaled(1))


def test_ms_ssim_in_db() -> None:
    assert bd.ms_ssim_db(0.99) == pytest.approx(20)
    assert bd.ms_ssim_db(1.0) == math.inf


def points(codec: str, factor: np.ndarray, overhead: int = 0) -> list[Point]:
    """A codec whose region i costs `factor[i]` times what a straight line says, at an MSE that all regions share."""
    found = []
    for bpp, db in STRAIGHT:
        sizes = tuple(int(bpp * 10_000 * f) for f in factor)
        mse = 255**2 / 10 ** (db / 10)
        total = sum(sizes) + overhead
        pixels = 80_000 * len(factor)
        regions = Regions(sizes, (mse,) * len(factor), ((1 - 10 ** (-db / 10),) * 5,) * len(factor))
        metrics = {"psnr_rgb": db, "ms_ssim": 1 - 10 ** (-db / 10)}
        found.append(
            Point(
                codec,
                "tiled512",
                f"{bpp}",
                total,
                pixels,
                pixels,
                8 * total / pixels,
                False,
                metrics,
                regions=regions,
            )
        )
    return found


def test_regions_that_agree_have_no_error_and_those_that_do_not_have_the_textbook_s() -> None:
    n = 64
    alike = intervals.compare(points("a", np.full(n, 0.5)), points("b", np.ones(n)), "psnr_rgb", seed=1)
    assert alike.rate_percent == pytest.approx(-50)
    assert alike.se_percent == pytest.approx(0, abs=1e-9)
    factor = 1 + 0.2 * np.where(np.arange(n) % 2, 1.0, -1.0)
    mixed = intervals.compare(points("a", factor), points("b", np.ones(n)), "psnr_rgb", seed=1)
    # The mean of n draws of 1 +- 0.2: its standard error is 20 % / sqrt(64) = 2.5 %.
    assert mixed.se_percent == pytest.approx(2.5, rel=0.12)
    assert mixed.low_percent == pytest.approx(-4.9, abs=0.9)
    assert mixed.high_percent == pytest.approx(4.9, abs=0.9)
    by_ms_ssim = intervals.compare(points("a", factor), points("b", np.ones(n)), "ms_ssim", seed=1)
    assert by_ms_ssim.se_percent == pytest.approx(2.5, rel=0.12)


def test_a_network_in_the_file_is_paid_in_every_draw() -> None:
    test = points("a", np.ones(16), overhead=160_000)
    row = intervals.compare(test, points("b", np.ones(16)), "psnr_rgb", seed=1)
    assert row.se_percent == pytest.approx(0, abs=1e-9)
    assert row.rate_percent == pytest.approx(100 * (2 * 1.5 * 1.25 * 1.125) ** 0.25 - 100, rel=0.1)
    assert row.low_percent == pytest.approx(row.rate_percent)


def test_the_number_of_regions_follows_the_error() -> None:
    def needed(spread: float) -> int:
        factor = 1 + spread * np.where(np.arange(64) % 2, 1.0, -1.0)
        return intervals.least_count(points("a", factor), points("b", np.ones(64)), (16, 24, 36, 64), seed=3)

    # spread / sqrt(n) under 2 %: 0.04 needs 4, 0.11 needs 31, 0.5 more than there are.
    assert [needed(0.04), needed(0.11), needed(0.5)] == [16, 36, 64]


def test_rows_are_of_every_codec_against_the_references_and_say_why_not() -> None:
    good, other = points("jpeg-420", np.ones(4)), points("webp", np.full(4, 0.8))
    lossless = Point("jpegxl-lossless", "tiled512", "lossless", 9, 8, 8, 9.0, True, {})
    short = points("avif", np.ones(4))[:2]
    rows = intervals.bd_rows([*good, *other, lossless, *short], seed=0)
    found = {(r.codec, r.reference, r.metric): r for r in rows}
    assert len(rows) == len(found) == 8
    assert found["webp", "jpeg-420", "psnr_rgb"].rate_percent == pytest.approx(-20)
    assert found["avif", "jpeg-420", "psnr_rgb"].refused == "2 points; at least 3 are needed"
    assert found["avif", "jpeg-420", "psnr_rgb"].rate_percent is None
    assert intervals.wide(rows) == ""
