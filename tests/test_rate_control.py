"""The search for a step, on made-up curves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import LEAST_STEP, MOST_STEP, STEP_UNIT
from inrwsi.rate_control import (
    PROBES,
    ROUNDS,
    Curve,
    Goal,
    Measured,
    search,
    settle,
    step_of_quality,
)

RAW = 3_000_000_000
Measure = Callable[[int], Measured]


def slide(*, bytes_at_20: float = 6e7, power: float = 1.1, floor: float = 2e5, db_at_20: float = 34.0) -> Measure:
    """A slide whose bytes fall with the step to a floor, and whose PSNR falls faster where the step is small."""

    def measure(step: int) -> Measured:
        doublings = math.log2(step / (20 * STEP_UNIT))
        psnr = db_at_20 - 4.0 * doublings + 0.25 * doublings**2
        return Measured(bytes_at_20 * 2 ** (-power * doublings - 0.06 * doublings**2) + floor, psnr)

    return measure


class Counted:
    def __init__(self, measure: Measure) -> None:
        self.measure, self.steps = measure, list[int]()

    def __call__(self, step: int) -> Measured:
        self.steps.append(step)
        return self.measure(step)


def test_quality_is_a_step() -> None:
    steps = [step_of_quality(q) for q in range(1, 101)]
    assert steps == sorted(set(steps), reverse=True)
    assert [round(step_of_quality(q) / STEP_UNIT, 1) for q in (1, 60, 100)] == [192.4, 19.8, 4.3]
    assert step_of_quality(60.25) not in steps
    assert min(steps) >= LEAST_STEP
    assert max(steps) <= MOST_STEP


GOALS = [
    ("size_bytes", 4e6),
    ("size_bytes", 5e6),
    ("size_bytes", 6e7),
    ("size_bytes", 3.1e8),
    ("ratio", 7.5),
    ("ratio", 50),
    ("ratio", 400),
    ("psnr_db", 26),
    ("psnr_db", 34.04),
    ("psnr_db", 41),
    ("psnr_db", 48),
]


@pytest.mark.parametrize(("option", "value"), GOALS)
@pytest.mark.parametrize("bias", [1.0, 0.85, 1.15])
def test_goals_are_met_though_the_sample_is_off(option: str, value: float, bias: float) -> None:
    whole = slide()
    probe, encode = Counted(slide(bytes_at_20=6e7 * bias, power=1.07, db_at_20=34 - 3 * (bias - 1))), Counted(whole)
    goal = Goal(option, value, RAW)
    step = settle(goal, search(goal, probe), encode)
    met = whole(step)
    if option == "psnr_db":
        assert abs(met.psnr_db - value) <= 0.1
    else:
        want = value if option == "size_bytes" else RAW / value
        assert abs(met.file_bytes / want - 1) <= 0.0201
    assert step in encode.steps
    assert len(probe.steps) == len(set(probe.steps)) <= PROBES
    assert len(encode.steps) == len(set(encode.steps)) <= ROUNDS


def test_a_sample_that_is_right_costs_one_round() -> None:
    for option, value in GOALS[1:]:
        goal = Goal(option, value, RAW)
        encode = Counted(slide())
        settle(goal, search(goal, slide()), encode)
        assert len(encode.steps) <= 2, (option, value)


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("size_bytes", 1000, "--size 1,000 cannot be reached on this slide; the nearest that was found is about 7"),
        ("size_bytes", 10**13, "--size 10,000,000,000,000 cannot be reached on this slide; the nearest"),
        ("ratio", 1.0, "--ratio 1 cannot be reached on this slide; the nearest that was found is about "),
        ("psnr_db", 70.0, r"--psnr 70 cannot be reached on this slide; the nearest that was found is about 6\d\.\d\d"),
    ],
)
def test_what_cannot_be_is_said_by_the_sample(option: str, value: float, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        search(Goal(option, value, RAW), slide(bytes_at_20=1e7))


def test_what_cannot_be_is_said_by_the_file() -> None:
    """The sample is near enough for a try; the whole file is not, and there is no finer step."""
    most = slide()(LEAST_STEP).psnr_db
    goal = Goal("psnr_db", most + 0.3, RAW)
    encode = Counted(slide())
    with pytest.raises(UsageError, match=rf"the nearest that was found is {most:.2f}$"):
        settle(goal, search(goal, slide()), encode)
    assert encode.steps == [LEAST_STEP]


def test_a_flat_slide_has_no_error_at_any_step() -> None:
    with pytest.raises(UsageError, match="without any error"):
        search(Goal("psnr_db", 40, RAW), lambda _: Measured(5000, math.inf))
    with pytest.raises(UsageError, match="is about 5,000 bytes"):
        search(Goal("size_bytes", 9000, RAW), lambda _: Measured(5000, math.inf))


def test_rounds_that_all_miss_are_told() -> None:
    """A file size that jumps: no step is within 2 %, and what was not asked for is not passed off as it."""
    goal = Goal("size_bytes", 1000, RAW)
    encode = Counted(lambda step: Measured(1100 if step < 20 * STEP_UNIT else 700, 30))
    with pytest.raises(
        UsageError, match="--size 1,000 cannot be reached on this slide; the nearest that was found is 1,100"
    ):
        settle(goal, Curve({15 * STEP_UNIT: math.log(1100), 21 * STEP_UNIT: math.log(700)}, -0.7), encode)
    assert len(encode.steps) <= ROUNDS


def test_a_jagged_level_is_halved_between_its_sides() -> None:
    """Of a small slide: a line through two files leads back to one of them, and the step lies between them."""
    jumps = ((14800, 1673), (14960, 1543), (15000, 1494), (15060, 1466), (MOST_STEP + 1, 1462))
    encode = Counted(lambda step: Measured(next(size for end, size in jumps if step < end), 30))
    step = settle(Goal("size_bytes", 1500, RAW), Curve({14710: math.log(1500)}, -2.8), encode)
    assert encode.steps[0] == 14710
    assert 14932 < step == encode.steps[-1] < 15017
    assert len(encode.steps) == len(set(encode.steps)) == 5


def test_the_nearest_that_is_told_is_the_nearest() -> None:
    """Where PSNR is not monotone, it is not that of the last step that was tried."""
    probe = Counted(lambda step: Measured(5000, 53.26 if step == LEAST_STEP else 54.35 - step / 20480))
    with pytest.raises(UsageError, match=r"the nearest that was found is about 54\.29$"):
        search(Goal("psnr_db", 70, RAW), probe)
    assert probe.steps[-1] == LEAST_STEP


def test_curves_go_through_their_points_both_ways() -> None:
    curve = Curve({4096: 10.0, 8192: 9.0, 32768: 8.0}, -0.7)
    for step, level in ((4096, 10.0), (8192, 9.0), (16384, 8.5), (32768, 8.0), (2048, 11.0), (65536, 7.5)):
        assert curve.level(step) == pytest.approx(level)
        assert curve.step(level) == pytest.approx(step, abs=1)
    assert curve.step(-100) == MOST_STEP
    assert curve.step(100) == LEAST_STEP
    one = Curve({8192: 9.0}, -0.7)
    assert one.step(9.7) == 4096


def test_a_slope_that_cannot_be_is_not_followed() -> None:
    """Two points that differ by noise alone would send the next step anywhere: here by ten doublings, or back."""
    goal = Goal("psnr_db", 36.0, RAW)
    near, far = 20 * STEP_UNIT, 10 * STEP_UNIT
    for noise in (0.2, -0.2):
        assert far / 8 < Curve({near: 34.0, far: 34.0 + noise}, goal.slope).step(goal.wanted) < far
    steep = Curve({near: 34.0, far: 64.0}, goal.slope).step(35.0)
    assert near / 2 < steep < near * 0.96  # of the slope as found it would be a thirtieth of a doubling away
