"""BD-rates of a run with their intervals, and how many regions it takes for the intervals to be narrow.

An interval is a bootstrap over regions (Efron 1979): regions are drawn with replacement, the same ones for both
codecs, and every draw gives rates, qualities and a BD-rate of its own. Strata are not held fixed in the draws, which
errs on the wide side. What a file holds beside its regions (headers, index, a network) is paid in full in every draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from . import bd
from .quality import SCALE_WEIGHTS, psnr_db
from .results import BdRow, Point

REFERENCES = (("jpeg-420", "tiled512"), ("jpeg2000", "tiled512"), ("avif", "tiled512"))
METRICS = ("psnr_rgb", "ms_ssim")
DRAWS = 400
LEAST_DRAWS_SHARE = 0.9  # of the draws must have a BD-rate, or there is no interval
AIM_SE_PERCENT = 2.0


def bd_rows(points: Sequence[Point], seed: int) -> tuple[BdRow, ...]:
    """Every codec and layout against every reference that was measured, by each metric."""
    return tuple(_bd_rows(points, seed))


def _bd_rows(points: Sequence[Point], seed: int) -> Iterator[BdRow]:
    curves: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if not point.lossless:
            curves.setdefault((point.codec, point.layout), []).append(point)
    for reference in REFERENCES:
        if reference not in curves:
            continue
        for name, own in curves.items():
            if name != reference:
                for metric in METRICS:
                    yield compare(own, curves[reference], metric, seed)


def compare(test: Sequence[Point], reference: Sequence[Point], metric: str, seed: int) -> BdRow:
    """One row: points of one codec in one layout against those of another. What cannot be compared says why."""
    names = (test[0].codec, test[0].layout, reference[0].codec, reference[0].layout, metric)
    try:
        a, b = _curve(test, metric), _curve(reference, metric)
        rate, range_db = bd.bd_rate(a, b)
    except bd.NoCommonRange as error:
        return BdRow(*names, refused=str(error))
    try:
        quality, range_bpp = bd.bd_quality(a, b)
    except bd.NoCommonRange:
        quality, range_bpp = None, None
    draws = draw_rates(test, reference, metric, seed)
    low, high, se = (None, None, None)
    if draws is not None:
        low, high = (float(v) for v in np.percentile(draws, (2.5, 97.5)))
        se = float(np.std(draws, ddof=1))
    return BdRow(*names, rate, low, high, se, range_db, quality, range_bpp)


def _curve(points: Sequence[Point], metric: str) -> bd.Curve:
    missing = [p.setting for p in points if metric not in p.metrics]
    if missing:
        raise bd.NoCommonRange(f"{metric} could not be measured at {missing[0]}")
    as_db = bd.ms_ssim_db if metric == "ms_ssim" else float
    return bd.curve([(p.bpp, as_db(p.metrics[metric])) for p in points])


def draw_rates(
    test: Sequence[Point], reference: Sequence[Point], metric: str, seed: int, count: int | None = None
) -> np.ndarray | None:
    """BD-rates in per cent of bootstrap draws of `count` regions (as many as there are), (draws,).

    None where a point does not say what its regions cost, or too many draws have no BD-rate.
    """
    regions = [p.regions for p in (*test, *reference)]
    if any(r is None or len(r.bytes) < 2 for r in regions):
        return None
    if metric == "ms_ssim" and any(not scales for r in regions if r for scales in r.scales):
        return None  # a region too small for the coarsest scale
    n = len(regions[0].bytes) if regions[0] else 0
    counts = np.random.default_rng(seed).multinomial(count or n, np.full(n, 1 / n), size=DRAWS)
    drawn = [[_drawn(p, metric, counts) for p in side] for side in (test, reference)]
    found = []
    for draw in range(DRAWS):
        try:
            a, b = (bd.curve([(float(r[draw]), float(q[draw])) for r, q in side]) for side in drawn)
            found.append(bd.bd_rate(a, b)[0])
        except bd.NoCommonRange:
            continue
    return np.array(found) if len(found) >= LEAST_DRAWS_SHARE * DRAWS else None


def _drawn(point: Point, metric: str, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits a pixel and quality in dB of one point in every draw; `counts` (draws, regions) says what is in it."""
    if point.regions is None:
        raise ValueError("the point has no regions")
    taken, n = counts.sum(axis=1), counts.shape[1]
    region_px = point.pixels / n
    sizes = np.array(point.regions.bytes, np.float64)
    shared = (point.file_bytes - sizes.sum()) * taken / n
    bpp = 8 * (shared + counts @ sizes) / (taken * region_px)
    if metric == "psnr_rgb":
        return bpp, np.array([psnr_db(v) for v in counts @ np.array(point.regions.mse) / taken])
    means = np.maximum(counts @ np.array(point.regions.scales) / taken[:, None], 0)
    value = np.prod(means ** np.array(SCALE_WEIGHTS), axis=1)
    return bpp, np.array([bd.ms_ssim_db(v) for v in value])


def least_count(test: Sequence[Point], reference: Sequence[Point], choices: Sequence[int], seed: int) -> int:
    """The smallest of `choices` with a standard error of the BD-rate under `AIM_SE_PERCENT`; else the largest."""
    for count in sorted(choices):
        draws = draw_rates(test, reference, "psnr_rgb", seed, count)
        if draws is not None and float(np.std(draws, ddof=1)) < AIM_SE_PERCENT:
            return count
    return max(choices)


def wide(rows: Sequence[BdRow]) -> str:
    """A sentence on standard errors that are not under what was aimed at; empty if all are."""
    over = [r for r in rows if r.se_percent is not None and r.se_percent >= AIM_SE_PERCENT]
    if not over:
        return ""
    worst = max(over, key=lambda r: r.se_percent or -math.inf)
    return (
        f"{len(over)} of {len(rows)} BD-rates have a standard error of {AIM_SE_PERCENT:g} % or more, up to "
        f"{worst.se_percent:.1f} % ({worst.codec} against {worst.reference}, {worst.metric})"
    )
