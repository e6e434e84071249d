"""Which quantiser step gives what was asked for: a search on a sample, then corrections by what whole files measure.

Both a file's bytes (their logarithm) and its PSNR fall nearly along a straight line over the logarithm of the step, so
that points are joined by lines, and the slide's curve is taken to be the sample's, moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from inrwsi.errors import Unreachable
from inrwsi.fields.octaves_model import LEAST_STEP, MOST_STEP, STEP_UNIT
from inrwsi.fit.rate import TOLERANCE, TOLERANCE_DB, file_bytes
from inrwsi.options import flag

PROBES = 4
ROUNDS = 6  # nearly always one or two
SURE = 10  # a sample that misses by so many tolerances, 20 % or 1 dB, says enough of the slide
START_STEP = 20 * STEP_UNIT
_MOST_PSNR_DB = 120.0  # stands for no error at all
# How levels change with a doubling of the step, where one point is known; within what two points may say of it.
_BYTES_SLOPE, _PSNR_SLOPE_DB = -0.7, -4.0
_SLOPE_BOUNDS = (0.25, 4.0)


def step_of_quality(quality: float) -> int:
    """The step in units of 1 / 1024 grey level: 192 grey levels at 1, 19.8 at 60, 4.3 at 100, halved every 18."""
    return min(MOST_STEP, max(LEAST_STEP, round(200 * STEP_UNIT * 2 ** (-quality / 18))))


@dataclass(frozen=True)
class Measured:
    """A file, or what a sample says of it. `psnr_db` is over the whole slide; infinite where nothing is lost."""

    file_bytes: float
    psnr_db: float


@dataclass(frozen=True)
class Goal:
    """What was asked for.

    Attributes:
        option: `psnr_db`, `ratio` or `size_bytes`, as of `EncodeOptions`.
        value: of it.
        raw_bytes: of the slide without compression, one a pixel and channel.
    """

    option: str
    value: float
    raw_bytes: int

    @property
    def tolerance(self) -> float:
        """How far a level may be from the one that is wanted."""
        return TOLERANCE_DB if self.option == "psnr_db" else math.log(1 + TOLERANCE)

    @property
    def slope(self) -> float:
        return _PSNR_SLOPE_DB if self.option == "psnr_db" else _BYTES_SLOPE

    @property
    def wanted(self) -> float:
        """The level to reach."""
        if self.option == "psnr_db":
            return self.value
        return math.log(file_bytes(self.option, self.value, self.raw_bytes))

    def level(self, measured: Measured) -> float:
        """What is steered: dB, or the logarithm of the bytes. It falls as the step grows."""
        return min(measured.psnr_db, _MOST_PSNR_DB) if self.option == "psnr_db" else math.log(measured.file_bytes)

    def levels(self, found: Mapping[int, Measured]) -> dict[int, float]:
        """Of every step."""
        return {step: self.level(measured) for step, measured in found.items()}

    def nearest(self, found: Mapping[int, Measured]) -> int:
        """The step whose level is nearest to the one that is wanted."""
        levels = self.levels(found)
        return min(levels, key=lambda step: abs(levels[step] - self.wanted))

    def said(self, measured: Measured) -> str:
        """What was measured, in the terms of the option."""
        if self.option == "psnr_db":
            return f"{measured.psnr_db:.2f}" if math.isfinite(measured.psnr_db) else "a file without any error"
        if self.option == "ratio":
            return f"{self.raw_bytes / measured.file_bytes:.2f}"
        return f"{measured.file_bytes:,.0f} bytes"

    def unreachable(self, nearest: Measured, *, estimated: bool) -> Unreachable:
        """What to raise where no step reaches the goal."""
        about = "about " if estimated and not (self.option == "psnr_db" and math.isinf(nearest.psnr_db)) else ""
        return Unreachable(
            f"{flag(self.option)} {_plain(self.value)} cannot be reached on this slide; the nearest that was found is "
            f"{about}{self.said(nearest)}"
        )


def _plain(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,g}"


class Curve:
    """Level over step, through measured points.

    Args:
        points: step to level, at least one.
        slope: of the level over a doubling of the step, where the points do not say.
    """

    def __init__(self, points: dict[int, float], slope: float) -> None:
        self._points = sorted((math.log2(step), level) for step, level in points.items())
        self._slope = slope

    def step(self, wanted: float) -> int:
        """The step at which the level is `wanted`, within the limits of the format."""
        (x, y), slope = self._line(lambda point: point[1] - wanted)
        log = x + (wanted - y) / slope
        return round(2.0 ** min(math.log2(MOST_STEP), max(math.log2(LEAST_STEP), log)))

    def level(self, step: int) -> float:
        """The level at `step`."""
        at = math.log2(step)
        (x, y), slope = self._line(lambda point: at - point[0])
        return y + (at - x) * slope

    def _line(self, before: Callable[[tuple[float, float]], float]) -> tuple[tuple[float, float], float]:
        """The point to go from, and the slope there.

        Args:
            before: how far a point lies before what is looked for; negative where it lies behind it.
        """
        points = self._points
        if len(points) == 1:
            return points[0], self._slope
        at = next((n for n, point in enumerate(points) if n and before(point) <= 0), len(points) - 1)
        ends = (x0, y0), (x1, y1) = points[at - 1], points[at]
        low, high = sorted(self._slope * bound for bound in _SLOPE_BOUNDS)
        return min(ends, key=lambda point: abs(before(point))), min(high, max(low, (y1 - y0) / (x1 - x0)))


def search(goal: Goal, probe: Callable[[int], Measured]) -> Curve:
    """The curve about the goal, from a few steps on a sample.

    Args:
        probe: what a step (in units of 1 / 1024 grey level) gives, by the sample.

    Raises:
        Unreachable: the sample leaves no doubt that no step reaches the goal.
    """
    probes: dict[int, Measured] = {}
    step = START_STEP
    for _ in range(PROBES):
        probes[step] = probe(step)
        levels = goal.levels(probes)
        gap = abs(levels[step] - goal.wanted)
        curve = Curve(levels, goal.slope)
        step = curve.step(goal.wanted)
        if gap <= goal.tolerance / 2:
            break
        if step in probes:
            nearest = goal.nearest(probes)
            if step in (LEAST_STEP, MOST_STEP) and abs(levels[nearest] - goal.wanted) > SURE * goal.tolerance:
                raise goal.unreachable(probes[nearest], estimated=True)
            break
    return curve


def settle(goal: Goal, curve: Curve, encode: Callable[[int], Measured]) -> int:
    """Encode until a file is within the tolerance, at most `ROUNDS` times; the step of that file.

    Args:
        curve: of a sample.
        encode: makes the whole file with a step and measures it.

    Raises:
        Unreachable: no step reaches the goal.
    """
    found: dict[int, Measured] = {}
    step = curve.step(goal.wanted)
    for _ in range(ROUNDS):
        found[step] = encode(step)
        levels = goal.levels(found)
        if abs(levels[step] - goal.wanted) <= goal.tolerance:
            return step
        if len(levels) == 1:  # the sample knows the slope better than any one file
            step = curve.step(goal.wanted - levels[step] + curve.level(step))
        else:
            step = Curve(levels, goal.slope).step(goal.wanted)
        if step in found:  # of a small slide levels jump: the line through two of them may lead back to one
            between = _between(levels, goal.wanted)
            if between is None:
                break
            step = between
    raise goal.unreachable(found[goal.nearest(found)], estimated=False)


def _between(levels: dict[int, float], wanted: float) -> int | None:
    """A step between the nearest two on either side of what is wanted; None where there is none."""
    sides = [(a, b) for a, b in pairwise(sorted(levels)) if (levels[a] - wanted) * (levels[b] - wanted) < 0 < b - a - 1]
    low, high = min(sides, key=lambda pair: pair[1] - pair[0], default=(0, 0))
    return (low + high) // 2 or None
