"""Bjontegaard differences: how many bits more or fewer one codec takes than another at equal quality.

Bjontegaard, VCEG-M33 (2001), with piecewise cubic Hermite interpolation (PCHIP; Fritsch and Carlson 1980) in place of
one cubic, as ITU-T HSTP-VID-WPOM describes: log10 of the rate is interpolated over quality in dB, and the difference of
the two curves is averaged over the range of quality that both have measured. Nothing is extrapolated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

LEAST_RANGE_DB = 2.0
LEAST_RANGE_FACTOR = 1.5  # of the rates, for BD-PSNR
LEAST_POINTS = 3


class NoCommonRange(ValueError):
    """The two curves cannot be compared; the message says why."""


@dataclass(frozen=True)
class Curve:
    """A codec's points in order of rate: bits a pixel, and quality in dB. Both must rise strictly."""

    bpp: tuple[float, ...]
    quality_db: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.bpp) < LEAST_POINTS or len(self.bpp) != len(self.quality_db):
            raise NoCommonRange(f"{len(self.bpp)} points; at least {LEAST_POINTS} are needed")
        if not all(map(math.isfinite, self.bpp + self.quality_db)) or min(self.bpp) <= 0:
            raise NoCommonRange("a rate or a quality is not a finite number")
        if min(np.diff(self.bpp)) <= 0 or min(np.diff(self.quality_db)) <= 0:
            raise NoCommonRange("quality does not rise with the rate")


def curve(points: Sequence[tuple[float, float]]) -> Curve:
    """The curve through (bpp, dB) pairs in any order. NoCommonRange if it is none."""
    ordered = sorted(points)
    return Curve(tuple(p[0] for p in ordered), tuple(p[1] for p in ordered))


def ms_ssim_db(value: float) -> float:
    """-10 log10(1 - MS-SSIM), the usual scale for rate curves; inf for 1."""
    return -10 * math.log10(1 - value) if value < 1 else math.inf


def bd_rate(test: Curve, reference: Curve) -> tuple[float, tuple[float, float]]:
    """Mean difference in bits of `test` to `reference` at equal quality.

    Returns:
        Per cent (negative: fewer bits than the reference), and the common range in dB that it is the mean over.

    Raises:
        NoCommonRange: they have less than `LEAST_RANGE_DB` in common.
    """
    low = max(test.quality_db[0], reference.quality_db[0])
    high = min(test.quality_db[-1], reference.quality_db[-1])
    if high - low < LEAST_RANGE_DB:
        raise NoCommonRange(f"{max(0.0, high - low):.2f} dB in common; at least {LEAST_RANGE_DB:g} dB are needed")
    a, b = (_integral(c.quality_db, np.log10(c.bpp), low, high) for c in (test, reference))
    return 100 * (10 ** ((a - b) / (high - low)) - 1), (low, high)


def bd_quality(test: Curve, reference: Curve) -> tuple[float, tuple[float, float]]:
    """Mean difference in quality (BD-PSNR) of `test` to `reference` at equal rate.

    Returns:
        dB (positive: better than the reference), and the common range in bits a pixel that it is the mean over, by
        the logarithm of the rate.

    Raises:
        NoCommonRange: their rates have less than a factor of `LEAST_RANGE_FACTOR` in common.
    """
    low, high = max(test.bpp[0], reference.bpp[0]), min(test.bpp[-1], reference.bpp[-1])
    if high < low * LEAST_RANGE_FACTOR:
        raise NoCommonRange(f"the rates have less than a factor of {LEAST_RANGE_FACTOR:g} in common")
    ends = float(np.log10(low)), float(np.log10(high))
    a, b = (_integral(np.log10(c.bpp), c.quality_db, *ends) for c in (test, reference))
    return (a - b) / (ends[1] - ends[0]), (low, high)


def _integral(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, low: float, high: float) -> float:
    return float(PchipInterpolator(np.asarray(x), np.asarray(y), extrapolate=False).integrate(low, high))
