"""Frames and the arithmetic between them, in integers where possible.

Frames, named in every variable:
    l0     level 0 pixels of the slide, x to the right, y down; pixel (0, 0) covers [0, 1) x [0, 1)
    mip    pixels of octave k: the slide at 1/2^k, ceil(size / 2^k) a side
    chunk  (column, row) of a chunk in an octave's grid; a chunk has `chunk_px` mip pixels a side, cut at the edge
    out    pixels of the picture that a caller asks for: pixel j covers l0 [start + j * step, start + (j + 1) * step)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from inrwsi.errors import UsageError

MAX_SIDE_PX = 2**40
MAX_OUTPUT_PX = 2**20
MAX_PLACE_PX = 2 * MAX_SIDE_PX  # of anything asked for, from the slide's corner: all of any slide, and as much about it
LEAST_STEP, MOST_STEP = 1 / MAX_OUTPUT_PX, float(MAX_PLACE_PX)  # a pixel over all of a picture, a picture in a pixel
STEPS = "from 1e-6 to 2e12"


@dataclass(frozen=True)
class Rect:
    """A rectangle of whole pixels: x0 <= x < x0 + w, y0 <= y < y0 + h, in the frame that its variable names."""

    x: int
    y: int
    w: int
    h: int

    def intersect(self, other: Rect) -> Rect:
        """The common part; w or h is 0 where there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        w = min(self.x + self.w, other.x + other.w) - x
        h = min(self.y + self.h, other.y + other.h) - y
        return Rect(x, y, max(w, 0), max(h, 0))

    @property
    def empty(self) -> bool:
        return self.w == 0 or self.h == 0


def octave_wh(l0_wh: tuple[int, int], octave: int) -> tuple[int, int]:
    """Size in mip pixels of octave `octave` of a slide of `l0_wh`: ceil(size / 2^octave)."""
    return (-(-l0_wh[0] >> octave), -(-l0_wh[1] >> octave))


def grid_wh(mip_wh: tuple[int, int], chunk_px: int) -> tuple[int, int]:
    """Columns and rows of chunks that cover `mip_wh`."""
    return (-(-mip_wh[0] // chunk_px), -(-mip_wh[1] // chunk_px))


def chunk_rect(mip_wh: tuple[int, int], chunk_px: int, chunk_ij: tuple[int, int]) -> Rect:
    """The mip pixels of chunk (column, row), cut at the slide's edge."""
    x, y = chunk_ij[0] * chunk_px, chunk_ij[1] * chunk_px
    return Rect(x, y, min(chunk_px, mip_wh[0] - x), min(chunk_px, mip_wh[1] - y))


def resolve_downsample(
    *,
    mag: float | None = None,
    mpp: float | None = None,
    downsample: float | None = None,
    objective_power: float | None,
    mpp_um: tuple[float, float] | None,
) -> float:
    """Level-0 pixels an output pixel, from at most one of magnification, um a pixel and downsample; none means 1.

    Raises:
        UsageError: more than one is given, one is not a positive number, or the slide lacks what it is relative to.
    """
    given = {k: v for k, v in {"--mag": mag, "--mpp": mpp, "--downsample": downsample}.items() if v is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given; give one of them")
    for name, value in given.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; it should be a positive number")
    step = _step_of(mag, mpp, downsample, objective_power, mpp_um)
    for name, value in given.items():
        check_step(step, f"{name} {value:g}")
    return step


def check_step(step: float, told: str = "the step") -> None:
    """Raise `UsageError` unless a picture's pixel can be so many level-0 pixels a side. `told`: what says so."""
    if not LEAST_STEP <= step <= MOST_STEP:
        raise UsageError(f"{told} is {step:g} level-0 pixels a pixel; it should be {STEPS}")


def _step_of(
    mag: float | None,
    mpp: float | None,
    downsample: float | None,
    objective_power: float | None,
    mpp_um: tuple[float, float] | None,
) -> float:
    if mag is not None:
        if objective_power is None:
            raise UsageError(
                f"--mag {mag:g} is asked for, but the slide's objective power is unknown; use --mpp or --downsample, "
                "or encode it again with --objective-power"
            )
        return objective_power / mag
    if mpp is not None:
        if mpp_um is None:
            raise UsageError(
                f"--mpp {mpp:g} is asked for, but the slide's um a pixel are unknown; use --downsample, "
                "or encode it again with --source-mpp"
            )
        return mpp / math.sqrt(mpp_um[0] * mpp_um[1])
    return 1.0 if downsample is None else downsample


def output_wh(region_wh: tuple[int, int], step: float) -> tuple[int, int]:
    """Output pixels for a region of `region_wh` l0 pixels at `step` l0 pixels an output pixel, at least 1 a side."""
    return (max(1, round(region_wh[0] / step)), max(1, round(region_wh[1] / step)))


def check_output_wh(out_wh: tuple[int, int]) -> None:
    """Raise `UsageError` unless the output has 1 to `MAX_OUTPUT_PX` pixels a side."""
    if not (min(out_wh) >= 1 and max(out_wh) <= MAX_OUTPUT_PX):
        raise UsageError(
            f"the output would be {out_wh[0]} x {out_wh[1]} pixels; it should be from 1 to {MAX_OUTPUT_PX} a side"
        )
