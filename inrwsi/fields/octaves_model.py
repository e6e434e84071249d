"""What a file says of model `octaves`, and what a decoded chunk is. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from inrwsi.colour import UNIT, Klt, Rows
from inrwsi.config import check, check_int
from inrwsi.geometry import octave_wh

STEP_UNIT = 1024  # one grey level, in the fixed point of the step
LEAST_STEP, MOST_STEP = 512, 200 * STEP_UNIT
LEAST_SPACING, MOST_SPACING = 8, 128
# A trellis errs as much as one quantiser does whose values are so many times two spacings apart: 0.9 dB less.
TRELLIS_GAIN = 0.9
FEATURES = 8
COARSEST_PX = 16
ACTIVITY, HALF_ACTIVITY = "activity", "half activity"
STEPS = {ACTIVITY: 8, HALF_ACTIVITY: 16}  # in how many indices of activity a step doubles (`coding.sites`)
SHIFTED = "shifted"
CHUNK_PX = 256
MOST_INVERSE = 16 * UNIT
OWN_STEP_UNIT = 16  # the usual step, in the fixed point of octaves' own
LEAST_OWN_STEP, MOST_OWN_STEP, MOST_OWN_STEPS = 4, 64, 32
FINEST_LEAST, USUAL_LEAST = 32, 256  # of an octave's steps: the least that there may be
# What files are made with: on slide-20x against 256, at quality 78 and 99, 0.21 and 0.47 dB for 0.7 and 1.1 % more
# bytes. At fine steps a coarse octave's error would else be as large as the finest one's, and lie over hundreds of
# pixels. Finer than 64 there is nothing to be had.
LEAST_NOW = 64
# Of the coarsest octave's values, in 1 / 64 grey level: what there may be, and the least that files are made with.
FINEST_ROOT_UNIT, ROOT_UNIT, ROOT_NOW = 2, 16, 4


class Tuning(NamedTuple):
    """What files are made with: the model's `steps` and `own_steps`, and what luma counts against colour."""

    steps: str | None
    own_steps: tuple[int, ...] | None
    luma: float


# By what they are tuned for, the default first. MS-SSIM is of luma alone, and most of it is taken at half size and less
# (Wang et al. 2003, section 3.2: the finest scale weighs 0.04), where errors of octave 0 are gone: so octave 0 has a
# coarser step beside the others. (22, 15, 13), measured on five images: 4.3 % fewer bits at equal MS-SSIM, none more at
# equal PSNR; with 1.4 times as much between the octaves no fewer, and 2 % more. Half of it all takes half of what there
# is at equal MS-SSIM for little at equal PSNR (README has both). Of its parts luma and the octaves' steps pay least: on
# slide-20x luma 1.25 takes 1.4 % fewer bits at equal MS-SSIM and 0.3 % more at equal PSNR, and beside it 1.35 with
# (16, 14, 13) 2 % fewer and 0.7 % more.
TUNINGS = {
    "balanced": Tuning(HALF_ACTIVITY, (16, 15, 14), 1.15),
    "psnr": Tuning(None, None, 1.0),
    "ms-ssim": Tuning(ACTIVITY, (22, 15, 13), 2.5),
}
# The spacing at one step, in grey levels, and how it rises: 16 at 7.6 and 34 at ten times that. Measured on five
# images, against one quantiser of whole units: 7 % fewer bits at 43 dB, 10 at 36, 18 at 30; with spacings a quarter
# smaller 6, 9 and 16.
SPACING_AT, SPACING_STEP, SPACING_RISE = 16, 7.6, 1 / 3


@dataclass(frozen=True)
class OctavesModel:
    """The model's part of the header (SPEC.md, Annex B).

    Attributes:
        prior: SHA-256, in hex, of the released prior that the networks come from; empty where the file holds all that
            decoding needs, and no prior is needed.
        step: of the quantiser at octave 0, in units of 1 / 1024 grey level.
        matrix: 9 integers, rows of the colour transform in units of 1 / 2^14.
        mean: 3 integers, of RGB, in units of 1 / 64 grey level.
        inverse: 9 integers, rows of the inverse of `matrix` in the same units; None where its transpose is that.
        steps: None, the same step everywhere; or `activity`, each site's follows the activity about it; or
            `half activity`, half as far.
        scales: None, scale indices are as the networks say; or `shifted`, each chunk says by how much they are off.
        own_steps: None, each octave's step is half the finer one's; or, from octave 0 on, how many sixteenths of
            that it is. Octaves beyond the last have what the last has.
        least_step: what no octave's step is less than, in 1 / 1024 grey level; None: 256.
        root_unit: of the coarsest octave's values, in 1 / 64 grey level; None: 16.
        spacing: None, coefficients are their means and whole units; or how far apart, in 1 / 16 unit, the values are
            that a trellis chooses from (`coding.trellis`).
    """

    prior: str
    step: int
    matrix: tuple[int, ...]
    mean: tuple[int, ...]
    name: str = "octaves"
    inverse: tuple[int, ...] | None = None
    steps: str | None = None
    scales: str | None = None
    own_steps: tuple[int, ...] | None = None
    spacing: int | None = None
    least_step: int | None = None
    root_unit: int | None = None

    def __post_init__(self) -> None:
        check(self.name == "octaves", "name", self.name, "octaves")
        ok = len(self.prior) in (0, 64) and set(self.prior) <= set("0123456789abcdef")
        check(ok, "prior", self.prior[:80], "64 hexadecimal digits, or empty")
        check(self.steps in (None, *STEPS), "steps", self.steps, " or ".join(STEPS))
        check(self.scales in (None, SHIFTED), "scales", self.scales, SHIFTED)
        check_int("step", self.step, LEAST_STEP, MOST_STEP)
        check(len(self.matrix) == 9, "matrix", len(self.matrix), "9 numbers")
        for value in self.matrix:
            check_int("matrix", value, -UNIT - 1, UNIT + 1)
        check(self.inverse is None or len(self.inverse) == 9, "inverse", len(self.inverse or ()), "9 numbers")
        for value in self.inverse or ():
            check_int("inverse", value, -MOST_INVERSE, MOST_INVERSE)
        if self.own_steps is not None:
            check(1 <= len(self.own_steps) <= MOST_OWN_STEPS, "own_steps", len(self.own_steps), "1 to 32 numbers")
            for value in self.own_steps:
                check_int("own_steps", value, LEAST_OWN_STEP, MOST_OWN_STEP)
        if self.spacing is not None:
            check_int("spacing", self.spacing, LEAST_SPACING, MOST_SPACING)
        if self.least_step is not None:
            check_int("least_step", self.least_step, FINEST_LEAST, USUAL_LEAST)
        if self.root_unit is not None:
            check_int("root_unit", self.root_unit, FINEST_ROOT_UNIT, ROOT_UNIT)
        check(len(self.mean) == 3, "mean", len(self.mean), "3 numbers")
        for value in self.mean:
            check_int("mean", value, 0, 255 * 64)

    @property
    def active(self) -> int:
        """In how many indices of activity a step doubles (`coding.sites.STEP_FACTORS`); 0 where none follows it."""
        return STEPS.get(self.steps or "", 0)

    @property
    def shifted(self) -> bool:
        """Whether chunks shift the scale indices."""
        return self.scales == SHIFTED

    @property
    def least_octave_step(self) -> int:
        """What no octave's step is less than, in 1 / 1024 grey level."""
        return USUAL_LEAST if self.least_step is None else self.least_step

    @property
    def root(self) -> int:
        """The unit of the coarsest octave's values, in 1 / 64 grey level."""
        return ROOT_UNIT if self.root_unit is None else self.root_unit

    @property
    def spread(self) -> float:
        """Of the one quantiser that errs as much as this model's: how far apart its values are, in units."""
        return 1.0 if self.spacing is None else spread_of(self.spacing)

    @property
    def equal_step(self) -> float:
        """The step of octave 0 at which that quantiser's values would be whole units, in grey levels."""
        return self.step * self.spread / STEP_UNIT

    @property
    def klt(self) -> Klt:
        """The colour transform."""
        inverse = None if self.inverse is None else _rows(self.inverse)
        return Klt(_rows(self.matrix), (self.mean[0], self.mean[1], self.mean[2]), inverse)

    @classmethod
    def of(cls, prior: str, step: int, klt: Klt, *, tune: str) -> OctavesModel:
        """What a file is made with now, with the slide's colour transform; `step` is as of `at`.

        `tune`: one of `TUNINGS`.
        """
        steps, own_steps, _ = TUNINGS[tune]
        inverse = None if klt.inverse is None else sum(klt.inverse, ())
        matrix = sum(klt.matrix, ())
        made = cls(prior, LEAST_STEP, matrix, klt.mean, "octaves", inverse, steps, SHIFTED, own_steps)
        return replace(made, least_step=LEAST_NOW).at(step)

    def at(self, equal_step: int) -> OctavesModel:
        """The same with a trellis that errs as a quantiser of that step does, in units of 1 / 1024 grey level.

        Networks judge best at steps finer than what is coded with: their inputs are whole numbers of eighths of a step.
        So the coarser the step that is asked for, the further apart values are in units of the networks' own.

        The coarsest octave's unit is a 64th of the step, as its error lies under all the others'.
        """
        spacing = spacing_at(equal_step / STEP_UNIT)
        step = round(equal_step / spread_of(spacing))
        root_unit = min(max(equal_step // STEP_UNIT, ROOT_NOW), ROOT_UNIT)
        return replace(self, step=min(max(step, LEAST_STEP), MOST_STEP), spacing=spacing, root_unit=root_unit)

    def own_step(self, octave: int) -> int:
        """How many sixteenths of the usual step an octave has."""
        return own_step_of(self.own_steps, octave)

    @property
    def rgb_matrix(self) -> np.ndarray:
        """(3, 3) int64 in units of 1 / 2^14, from components to RGB."""
        if self.inverse is None:
            return np.ascontiguousarray(np.array(self.matrix, np.int64).reshape(3, 3).T)
        return np.array(self.inverse, np.int64).reshape(3, 3)


@dataclass(frozen=True)
class Decoded:
    """A decoded chunk, or a part of one.

    Attributes:
        pixels: (3, h, w) int16, colour components in units of 1 / 64 grey level.
        features: (FEATURES, h, w) uint8, what the octave hands up; None at octave 0.
    """

    pixels: np.ndarray
    features: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.pixels.nbytes + (0 if self.features is None else self.features.nbytes)

    def cut(self, x: int, y: int, w: int, h: int) -> Decoded:
        """The part at (x, y) of size (w, h)."""
        features = None if self.features is None else self.features[:, y : y + h, x : x + w]
        return Decoded(self.pixels[:, y : y + h, x : x + w], features)


def spacing_at(equal_step: float) -> int:
    """The spacing that files are made with, at the step of a quantiser that errs as much, in grey levels."""
    spacing = round(SPACING_AT * (equal_step / SPACING_STEP) ** SPACING_RISE)
    return min(max(spacing, LEAST_SPACING), MOST_SPACING)


def spread_of(spacing: int) -> float:
    """Of the one quantiser that errs as much as a trellis of that spacing: how far apart its values are, in units."""
    return TRELLIS_GAIN * spacing / 8


def own_step_of(own_steps: tuple[int, ...] | None, octave: int) -> int:
    """How many sixteenths of the usual step an octave has, of a model's `own_steps`."""
    return OWN_STEP_UNIT if own_steps is None else own_steps[min(octave, len(own_steps) - 1)]


def _rows(m: tuple[int, ...]) -> Rows:
    return ((m[0], m[1], m[2]), (m[3], m[4], m[5]), (m[6], m[7], m[8]))


def coarsest_octave(l0_wh: tuple[int, int]) -> int:
    """The octave that is stored plainly: the first whose sides are at most COARSEST_PX; at least 1."""
    octave = 1
    while max(octave_wh(l0_wh, octave)) > COARSEST_PX:
        octave += 1
    return octave
