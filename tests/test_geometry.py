"""Frames and the arithmetic between them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inrwsi.errors import UsageError
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.geometry import Rect, chunk_rect, grid_wh, octave_wh, output_wh, resolve_downsample


def test_rectangles_meet() -> None:
    assert Rect(0, 0, 10, 8).intersect(Rect(4, 5, 10, 10)) == Rect(4, 5, 6, 3)
    assert Rect(-5, -5, 10, 10).intersect(Rect(0, 0, 3, 30)) == Rect(0, 0, 3, 5)
    apart = Rect(0, 0, 4, 4).intersect(Rect(4, 0, 4, 4))
    assert (apart.w, apart.h, apart.empty) == (0, 4, True)
    assert Rect(0, 0, 4, 4).intersect(Rect(9, 9, 1, 1)).empty
    assert not Rect(0, 0, 1, 1).empty


@pytest.mark.parametrize(
    ("l0_wh", "octave", "mip_wh"),
    [
        ((100_000, 80_000), 0, (100_000, 80_000)),
        ((100_000, 80_000), 8, (391, 313)),
        ((1, 7), 3, (1, 1)),
        ((8, 9), 3, (1, 2)),
        ((2**40, 2**40 - 1), 40, (1, 1)),
        ((2**40, 2**40 + 1), 39, (2, 3)),
    ],
)
def test_octaves_are_rounded_up(l0_wh: tuple[int, int], octave: int, mip_wh: tuple[int, int]) -> None:
    assert octave_wh(l0_wh, octave) == mip_wh


def test_grids_and_chunks_at_the_edge() -> None:
    assert grid_wh((40, 20), 16) == (3, 2)
    assert grid_wh((32, 16), 16) == (2, 1)
    assert grid_wh((1, 1), 256) == (1, 1)
    assert chunk_rect((40, 20), 16, (1, 0)) == Rect(16, 0, 16, 16)
    assert chunk_rect((40, 20), 16, (2, 1)) == Rect(32, 16, 8, 4)


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(16, 300))
def test_chunks_cover_an_octave_once(w: int, h: int, chunk_px: int) -> None:
    cols, rows = grid_wh((w, h), chunk_px)
    rects = [chunk_rect((w, h), chunk_px, (i, j)) for j in range(rows) for i in range(cols)]
    assert sum(r.w * r.h for r in rects) == w * h
    assert all(0 < r.w <= chunk_px and 0 < r.h <= chunk_px for r in rects)
    assert (rects[-1].x + rects[-1].w, rects[-1].y + rects[-1].h) == (w, h)


def test_chunk_numbers_go_from_the_coarsest_octave_row_by_row() -> None:
    head = Header(SlideInfo(40, 20, 3, 8, (0, 0, 0)), GridInfo(16, (0, 1, 3)), {"name": "test"})
    order = [(3, (0, 0)), (1, (0, 0)), (1, (1, 0))] + [(0, (i, j)) for j in range(2) for i in range(3)]
    assert head.chunk_count == 9
    assert [head.chunk_at(n) for n in range(9)] == order
    assert [head.chunk_number(*chunk) for chunk in order] == list(range(9))
    for octave, chunk_ij in ((2, (0, 0)), (0, (3, 0)), (0, (0, 2)), (0, (-1, 0))):
        with pytest.raises(IndexError):
            head.chunk_number(octave, chunk_ij)
    for number in (-1, 9):
        with pytest.raises(IndexError):
            head.chunk_at(number)


def downsample(**asked: float) -> float:
    return resolve_downsample(objective_power=40.0, mpp_um=(0.25, 0.16), **asked)


def test_what_asks_for_a_downsample() -> None:
    assert downsample() == 1.0
    assert downsample(mag=10) == 4.0
    assert downsample(mag=80) == 0.5
    assert downsample(downsample=3.7) == 3.7
    assert downsample(mpp=1.0) == pytest.approx(5.0)  # against the geometric mean of x and y, 0.2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"mag": 10, "mpp": 1.0}, "--mag and --mpp are given; give one of them"),
        ({"mag": 0}, "--mag is 0; it should be a positive number"),
        ({"downsample": -1}, "--downsample is -1"),
        ({"mpp": math.nan}, "--mpp is nan"),
        ({"mpp": math.inf}, "--mpp is inf"),
    ],
)
def test_downsamples_that_cannot_be(asked: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        downsample(**asked)


def test_downsamples_that_the_slide_cannot_answer() -> None:
    with pytest.raises(UsageError, match="objective power is unknown"):
        resolve_downsample(mag=20, objective_power=None, mpp_um=(0.5, 0.5))
    with pytest.raises(UsageError, match="um a pixel are unknown"):
        resolve_downsample(mpp=0.5, objective_power=40, mpp_um=None)
    assert resolve_downsample(downsample=2, objective_power=None, mpp_um=None) == 2


def test_output_sizes() -> None:
    assert output_wh((1000, 600), 4.0) == (250, 150)
    assert output_wh((1000, 600), 0.5) == (2000, 1200)
    assert output_wh((1000, 601), 3.0) == (333, 200)
    assert output_wh((3, 3), 1000.0) == (1, 1)
