"""Targets that an encoding of model `octaves` has to meet, and the pieces that it works in."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrwsi import encode_octaves
from inrwsi.encode_units import Glass, Parts, Plan
from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import FEATURES, Decoded
from inrwsi.formats.source_image import ArraySource
from inrwsi.workers import Workers
from tests.octaves_encoded import decoded, make, patch_coder, psnr, texture, with_glass

TARGETS = (
    {"size_bytes": 0.045},
    {"size_bytes": 0.2},
    {"ratio": 9.0},
    {"ratio": 30.0},
    {"psnr_db": 31},
    {"psnr_db": 44.5},
)
pytestmark = pytest.mark.usefixtures("threads_kept")


@pytest.fixture(autouse=True)
def fake_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_coder(monkeypatch)


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        *(((700, 531), how) for how in TARGETS),
        *(((1500, 1300), how) for how in TARGETS[2:4]),
        *(((3600, 2300), how) for how in TARGETS[1::3]),  # more units than are in the sample
    ],
)
def test_targets_are_met(shape: tuple[int, int], how: dict[str, float], tmp_path: Path) -> None:
    pixels, out = with_glass(*shape), tmp_path / "a.cinr"
    (name, value), raw = next(iter(how.items())), math.prod(shape) * 3
    value = round(value * raw) if name == "size_bytes" else value
    report = make(pixels, out, effort="fast", **{name: value})
    if name == "psnr_db":
        assert psnr(pixels, decoded(out)[0]) == pytest.approx(value, abs=0.1)
    else:
        want = value if name == "size_bytes" else raw / value
        assert out.stat().st_size == pytest.approx(want, rel=0.0201)
    assert report.cinr_bytes == out.stat().st_size


def test_what_no_step_reaches_is_said(tmp_path: Path) -> None:
    pixels, out = with_glass(700, 531), tmp_path / "a.cinr"
    with pytest.raises(
        UsageError, match="--size 300 cannot be reached on this slide; the nearest that was found is about"
    ):
        make(pixels, out, size_bytes=300)
    with pytest.raises(UsageError, match="--psnr 70 cannot be reached on this slide; the nearest that was found is"):
        make(pixels, out, psnr_db=70, overwrite=True)
    assert not out.exists()


# Work in pieces


def test_units_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held, most = 0, 0
    lock = threading.Lock()
    read, encode_unit, scan_unit = ArraySource.read, encode_octaves.encode_unit, encode_octaves.scan_unit

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def work(*arguments: Any) -> Any:
            nonlocal held
            try:
                return function(*arguments)
            finally:
                with lock:
                    held -= 1

        return work

    def reading(self: Any, l0_xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        nonlocal held, most
        if max(wh) > encode_octaves.WINDOW_PX:
            with lock:
                held += 1
                most = max(most, held)
        return read(self, l0_xy, wh)

    monkeypatch.setattr(ArraySource, "read", reading)
    monkeypatch.setattr(encode_octaves, "encode_unit", counted(encode_unit))
    monkeypatch.setattr(encode_octaves, "scan_unit", counted(scan_unit))
    make(texture(4000, 3000), tmp_path / "a.cinr", 8, memory_mb=256)
    # 256 MB, half of it for units of 48 MB.
    assert held == 0
    assert most == 2


def test_workers_hand_over_everything_and_stop_at_an_error() -> None:
    with Workers(3) as workers:
        assert sorted(workers.run(lambda n: n * n, range(20), most=4)) == [(n, n * n) for n in range(20)]
        assert list(workers.run(lambda n: n, [], most=4)) == []
        begun: list[int] = []

        def work(n: int) -> int:
            begun.append(n)
            if n == 5:
                raise ValueError("five")
            return torch.get_num_threads()

        with pytest.raises(ValueError, match="five"):
            list(workers.run(work, range(1000), most=4))
        assert len(begun) < 20
        assert {threads for _, threads in workers.run(work, range(6, 9), most=2)} == {1}


@pytest.mark.parametrize("wh", [(1, 1), (40, 30), (1500, 1300), (5000, 300)])
def test_a_plan_covers_the_slide_once(wh: tuple[int, int]) -> None:
    plan = Plan.of(wh)
    assert plan.unit == min(2, plan.top - 1)
    assert sorted(ij for unit in plan.chunks(plan.unit) for ij in plan.leaves(unit)) == sorted(plan.chunks(0))
    for octave in range(1, plan.top + 1):
        children = [c for ij in plan.chunks(octave) for c in plan.children(octave, ij)]
        assert sorted(children) == sorted(plan.chunks(octave - 1))
        for ij in plan.chunks(octave):
            covered = np.zeros((plan.rect(octave, ij).h, plan.rect(octave, ij).w), int)
            for child in plan.children(octave, ij):
                part = plan.quadrant(octave - 1, child)
                covered[part.y : part.y + part.h, part.x : part.x + part.w] += 1
            assert (covered == 1).all()


def test_parts_come_back_in_any_order(tmp_path: Path) -> None:
    plan, rng = Plan.of((1500, 1300)), np.random.default_rng(2)
    parts = Parts(tmp_path / "a.parts", plan, 0, FEATURES)
    kept = {}
    for ij in sorted(plan.chunks(0), key=lambda ij: rng.random()):
        rect = plan.quadrant(0, ij)
        kept[ij] = Decoded(
            rng.integers(-32768, 32767, (3, rect.h, rect.w)).astype(np.int16),
            rng.integers(0, 255, (FEATURES, rect.h, rect.w)).astype(np.uint8),
        )
        parts.put(ij, kept[ij])
    parts.close()
    parts = Parts(tmp_path / "a.parts", plan, 0, FEATURES)
    for ij, part in kept.items():
        back = parts.get(ij)
        assert np.array_equal(back.pixels, part.pixels)
        assert back.features is not None
        assert np.array_equal(back.features, part.features)
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_blank_octaves_are_those_of_one_colour_alone() -> None:
    plan = Plan.of((2048, 1024))
    glass = Glass(plan, 1)
    records = {(0, 0): [(1, 9)] * 16, (1, 0): [(1, 9)] * 10 + [(1, 8)] + [(1, 9)] * 4 + [(0, 0)]}
    for ij, record in records.items():
        glass.take(ij, b"".join(bytes(r) + (5 * r[0]).to_bytes(8, "little") for r in record))
    blanks = glass.blanks(20.0)
    assert blanks.sse == 31 * 5
    assert [len(blanks.coded(k)) for k in range(4)] == [1, 1, 1, 1]
    assert (blanks.coded(1), blanks.coded(2), blanks.coded(3)) == ([(3, 1)], [(1, 0)], [(0, 0)])
    assert (blanks.colour(2, (0, 0)), blanks.colour(0, (6, 2)), blanks.colour(0, (7, 3))) == ((9,), (8,), None)
    assert blanks.coded_px(0, list(plan.chunks(0))) == 256 * 256


def test_glass_is_of_one_colour_where_that_loses_little_beside_the_step() -> None:
    """Its error is at most a four hundredth of the squared step; the last column of this slide is 44 pixels wide."""
    plan = Plan.of((300, 256))
    glass = Glass(plan, 3)
    glass.take((0, 0), b"".join(bytes((1, 240, 241, 242)) + (256 * w * 3).to_bytes(8, "little") for w in (256, 44)))
    assert (glass.content(), glass.content_px(plan.chunks(0))) == ([], 0)
    assert [glass.blanks(step).coded(0) for step in (19.9, 20.1)] == [[(0, 0), (1, 0)], []]
    assert [glass.blanks(step).sse for step in (19.9, 20.1)] == [0, 256 * 300 * 3]
    assert glass.blanks(20.1).colour(0, (1, 0)) == (240, 241, 242)
    assert glass.blanks(19.9).colour(0, (1, 0)) is None
