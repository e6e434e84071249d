"""The curves of a run: which points make a series, in which colour, and at which settings codecs spend equal bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from inrwsi.options import known_models

from .report_svg import Axis, Series, chart
from .report_tables import LAYOUTS, RANDOM_ACCESS, number
from .results import Point, Run

MOST_BPP = 12.0  # lossless files and most sources lie beyond it, and would press the curves into a corner
EQUAL_BPP = 1.0
NEARLY = 1.6
_BPP = "bits a pixel"


@dataclass(frozen=True)
class Curve:
    """One metric against bits: `decibel` draws a share x as -10 log10(1 - x), where equal steps look equal."""

    key: str
    title: str
    label: str
    form: str
    less_is_better: bool = False
    decibel: bool = False
    low: float | None = None
    high: float | None = None

    def value(self, point: Point) -> float | None:
        """What is drawn; None where there is no error, or the metric is missing."""
        value = point.metrics.get(self.key)
        if value is None:
            return None
        if self.decibel:
            return -10 * math.log10(1 - value) if value < 1 else None
        return abs(value) if self.less_is_better else value


QUALITY_CURVES = (
    Curve("psnr_rgb", "RGB PSNR", "dB", ".2f"),
    Curve("ms_ssim", "MS-SSIM", "-10 log10(1 - MS-SSIM), dB", ".4f", decibel=True),
    Curve("worst1pct_psnr", "RGB PSNR of the worst 1 % of tiles", "dB", ".2f"),
    Curve("nuclei_f1", "Nuclei found: F1", "F1 against the original", ".3f", high=1.0),
)
FIDELITY_CURVES = (
    Curve("nuclei_dice", "Nuclei: Dice", "Dice against the original", ".3f", high=1.0),
    Curve("count_error", "Nuclei: error of the count", "relative error", ".3f", less_is_better=True, low=0.0),
    Curve("area_error", "Nuclei: error of the mean area", "relative error", ".3f", less_is_better=True, low=0.0),
    Curve("ciede2000", "Colour: mean CIEDE2000", "CIEDE2000", ".2f", less_is_better=True, low=0.0),
    Curve("stain_angle_deg", "Stain vectors: drift", "degrees", ".2f", less_is_better=True, low=0.0),
    Curve("od_drift", "Optical density: drift", "mean absolute drift", ".4f", less_is_better=True, low=0.0),
    Curve("task_agreement", "The given model: same answers", "share of answers", ".4f", high=1.0),
    Curve("task_correlation", "The given model: correlation", "Pearson's r", ".4f", high=1.0),
    Curve("spectrum_ratio", "Fine detail: power kept", "power above 0.25 cycles a pixel", ".3f"),
)


def own_codecs(run: Run) -> set[str]:
    """The codecs of the run that are models of this project."""
    return {p.codec for p in run.points} & set(known_models())


def colours(run: Run) -> dict[str, int]:
    """Class number of each codec, the same in every chart of the run: 0 for ours, then in the order of the run."""
    own = own_codecs(run)
    others = [c for c in dict.fromkeys(p.codec for p in run.points) if c not in own]
    return {**dict.fromkeys(sorted(own), 0), **{codec: i + 1 for i, codec in enumerate(others)}}


def draw(run: Run, curve: Curve, layouts: Sequence[str] = RANDOM_ACCESS, *, alone: bool = False) -> str:
    """The SVG of one metric over bits a pixel for every codec that is kept in one of `layouts`."""
    colour, own = colours(run), own_codecs(run)
    points: dict[str, list[tuple[float, float | None, str]]] = {}
    for point in _drawn(run, curve, layouts):
        text = (
            f"{point.codec}, {LAYOUTS[point.layout]}, {point.setting}: {point.bpp:.3f} bpp, "
            f"{curve.title} {number(point.metrics.get(curve.key), curve.form) if curve.key in point.metrics else '∞'}"
        )
        points.setdefault(point.codec, []).append((point.bpp, curve.value(point), text))
    series = [Series(codec, colour[codec], tuple(points[codec]), codec in own) for codec in points]
    y = Axis(curve.label, low=curve.low, high=curve.high, less_is_better=curve.less_is_better)
    return chart(curve.title, Axis(_BPP, log=True), y, sorted(series, key=lambda s: not s.main), alone=alone)


def has(run: Run, curve: Curve, layouts: Sequence[str] = RANDOM_ACCESS) -> bool:
    """Whether there is anything to draw."""
    return any(curve.value(p) is not None for p in _drawn(run, curve, layouts))


def _drawn(run: Run, curve: Curve, layouts: Sequence[str]) -> list[Point]:
    """Points with the metric, or so good that it is infinite."""
    return [
        p for p in run.points if p.layout in layouts and p.bpp <= MOST_BPP and (curve.key in p.metrics or p.lossless)
    ]


def target_bpp(run: Run) -> float:
    """The rate to show codecs side by side at: of our points, the one that most codecs have a point near to.

    Of several such, the dearest. Without a model of ours, 1 bit a pixel.
    """
    own = own_codecs(run)
    rates = sorted((p.bpp for p in run.points if p.codec in own), reverse=True)
    return max(rates, key=lambda bpp: len(equal_bits(run, bpp)), default=EQUAL_BPP)


def equal_bits(run: Run, bpp: float | None = None) -> list[Point]:
    """Each codec's point, in a layout with random access, of the rate nearest to `bpp` or `target_bpp`; ours first.

    Points off by more than a factor of 1.6 are left out: what is not at equal bits is not shown as if it were.
    """
    target = target_bpp(run) if bpp is None else bpp
    usable = [p for p in run.points if p.layout in RANDOM_ACCESS]
    nearest: dict[str, Point] = {}
    for point in sorted(usable, key=lambda p: abs(math.log(p.bpp / target)), reverse=True):
        if abs(math.log(point.bpp / target)) <= math.log(NEARLY):
            nearest[point.codec] = point
    own, order = own_codecs(run), list(dict.fromkeys(p.codec for p in usable))
    return sorted(nearest.values(), key=lambda p: (p.codec not in own, order.index(p.codec)))


def spectrum(run: Run, points: Sequence[Point]) -> str:
    """The SVG of each point's power over the original's, by frequency: below 1 is blur, above is noise of its own."""
    colour, own = colours(run), own_codecs(run)
    series = []
    for point in points:
        bands = len(point.spectrum_ratio)
        at = [(i + 0.5) / bands / 2 for i in range(bands)]
        named = [
            (x, y, f"{point.codec}, {point.setting}: {y:.3f} at {x:.3f} cycles a pixel")
            for x, y in zip(at, point.spectrum_ratio, strict=True)
        ]
        if named:
            series.append(Series(point.codec, colour[point.codec], tuple(named), point.codec in own))
    x, y = Axis("cycles a pixel", low=0.0, high=0.5), Axis("power, decoded over original", low=0.0)
    return chart("Power spectrum, decoded over original", x, y, series)
