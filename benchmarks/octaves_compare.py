"""BD-rates of model `octaves` to its peers, their means, and whether the bars are met."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from scipy.interpolate import PchipInterpolator

from . import bd
from .octaves_points import HIGH_BPP, LOW_BPP, PEERS
from .octaves_results import (
    CROP,
    HELD_OUT,
    NEVER,
    SLIDE,
    TISSUE,
    TRAINED,
    Comparison,
    Figures,
    FilePoint,
    Mean,
    Speed,
    Subject,
    Verdict,
)

METRICS = ("psnr_rgb", "ms_ssim")
GROUP_MEMBERS = {
    "all": (TRAINED, HELD_OUT, NEVER),
    TRAINED: (TRAINED,),
    "unseen": (HELD_OUT, NEVER),
    HELD_OUT: (HELD_OUT,),
    NEVER: (NEVER,),
}
# Of the project's aims, in per cent of the peer's bits.
MUST_CROPS = {"jpeg-420": -45.0, "jpeg2000": -18.0, "jpegxl": -20.0, "avif": -5.0, "avif-psnr": -5.0}
MUST_SLIDE = {"jpeg-420": -50.0, "jpeg2000": -25.0, "jpegxl": -25.0, "avif": -12.0, "avif-psnr": -12.0}
AIM_SLIDE = {"jpeg-420": -60.0, "jpeg2000": -40.0, "jpegxl": -40.0, "avif": -25.0, "avif-psnr": -25.0}
HELD_OUT_POINTS = 5.0
COLD_MS, COLD_AIM_MS = 80.0, 25.0
MOST_VIEW_RATIO = 2.5
MOST_KMAC = 12.0
LEAST_MSYMBOL_S = 100.0


def quality_of(figures: Figures, metric: str) -> float:
    """In dB, of either metric. NoCommonRange if it was not measured."""
    if metric == "psnr_rgb":
        return figures.psnr_db
    if figures.ms_ssim is None:
        raise bd.NoCommonRange("MS-SSIM was not measured")
    return bd.ms_ssim_db(figures.ms_ssim)


def compare(ours: Sequence[FilePoint], theirs: Sequence[FilePoint], area: str, metric: str) -> Comparison:
    """BD-rate over the peer's qualities at 0.3 to 2 bpp, as far as both curves reach; nothing is extrapolated.

    The rates of 0.3 and 2 bpp are of the crop or of tissue: over a whole slide, the peer's same files count.
    """
    subject, peer = theirs[0].subject, theirs[0].codec
    try:
        percent, range_db, peer_bpp, complete = _rate(ours, theirs, area, metric)
    except bd.NoCommonRange as error:
        return Comparison(subject, peer, area, metric, refused=str(error))
    return Comparison(subject, peer, area, metric, percent, range_db, peer_bpp, complete)


def _rate(
    ours: Sequence[FilePoint], theirs: Sequence[FilePoint], area: str, metric: str
) -> tuple[float, tuple[float, float], tuple[float, float], bool]:
    test, reference = _curve(ours, area, metric), _curve(theirs, area, metric)
    wanted = _wanted_bpp(theirs, area)
    rates = np.log(reference.bpp)
    ends = [min(max(w, reference.bpp[0]), reference.bpp[-1]) for w in wanted]
    of_rate = PchipInterpolator(rates, reference.quality_db)
    # Within its points: what is a rounding beyond the last of them is nowhere on the curve.
    least, most = reference.quality_db[0], reference.quality_db[-1]
    peer_low, peer_high = (min(max(float(of_rate(math.log(e))), least), most) for e in ends)
    low, high = max(peer_low, test.quality_db[0]), min(peer_high, test.quality_db[-1])
    if high - low < bd.LEAST_RANGE_DB:
        raise bd.NoCommonRange(
            f"{max(0.0, high - low):.2f} dB in common at the peer's {ends[0]:.2f} to {ends[1]:.2f} bpp; at least "
            f"{bd.LEAST_RANGE_DB:g} dB are needed"
        )
    logs = [PchipInterpolator(c.quality_db, np.log(c.bpp), extrapolate=False) for c in (test, reference)]
    mean = float(logs[0].integrate(low, high) - logs[1].integrate(low, high)) / (high - low)
    peer_bpp = (math.exp(float(logs[1](low))), math.exp(float(logs[1](high))))
    complete = (low, high) == (peer_low, peer_high) and ends == list(wanted)
    return 100 * math.expm1(mean), (low, high), peer_bpp, complete


def _wanted_bpp(theirs: Sequence[FilePoint], area: str) -> tuple[float, float]:
    """0.3 and 2 bpp, in the area's own rates."""
    if area != SLIDE:
        return LOW_BPP, HIGH_BPP
    pairs = sorted((p.over(TISSUE).bpp, p.over(SLIDE).bpp) for p in theirs)
    tissue, whole = (np.log(column) for column in zip(*pairs, strict=True))
    low, high = (math.exp(float(np.interp(math.log(b), tissue, whole))) for b in (LOW_BPP, HIGH_BPP))
    return low, high


def _curve(points: Sequence[FilePoint], area: str, metric: str) -> bd.Curve:
    """Through the points that nobody would do without: those that another has for no more bits are left out."""
    best: list[tuple[float, float]] = []
    for bpp, quality_db in sorted((f.bpp, quality_of(f, metric)) for f in (p.over(area) for p in points)):
        if not best or quality_db > best[-1][1]:
            best.append((bpp, quality_db))
    return bd.curve(best)


def compare_all(points: Sequence[FilePoint], our_name: str) -> tuple[Comparison, ...]:
    """Every subject, peer, area and metric."""
    found = []
    for subject in dict.fromkeys(p.subject for p in points):
        ours = [p for p in points if (p.subject, p.codec) == (subject, our_name)]
        for peer in PEERS:
            theirs = [p for p in points if (p.subject, p.codec) == (subject, peer)]
            if ours and theirs:
                areas = [f.area for f in theirs[0].figures]
                found += [compare(ours, theirs, area, metric) for area in areas for metric in METRICS]
    return tuple(found)


def means(comparisons: Sequence[Comparison], subjects: Sequence[Subject]) -> tuple[Mean, ...]:
    """Means over the groups of subjects that are there; a refused comparison counts for nothing but is counted."""
    group_of = {s.name: s.group for s in subjects}
    found = []
    for peer, area, metric in dict.fromkeys((c.peer, c.area, c.metric) for c in comparisons):
        for group, members in GROUP_MEMBERS.items():
            rows = [c for c in comparisons if (c.peer, c.area, c.metric) == (peer, area, metric)]
            rows = [c for c in rows if group_of[c.subject] in members]
            known = {c.subject: c.percent for c in rows if c.percent is not None}
            if known:
                worst = max(known, key=lambda s: known[s])
                mean = fmean(known.values())
                ends = [c.peer_bpp for c in rows if c.peer_bpp is not None]
                reach = (max(e[0] for e in ends), min(e[1] for e in ends)) if ends else None
                found.append(Mean(peer, area, metric, group, mean, len(known), len(rows), worst, known[worst], reach))
    return tuple(found)


def verdicts(means: Sequence[Mean], effort: str, speed: Speed | None) -> tuple[Verdict, ...]:
    """The bars that apply to what was measured."""
    found: list[Verdict] = []
    for mean in means:
        found += _rate_bars(mean, effort)
    return (*found, *(_speed_bars(speed) if speed else ()))


def _rate_bars(mean: Mean, effort: str) -> list[Verdict]:
    where = f"{effort}, {'crops' if mean.area == CROP else mean.area}, {mean.group}"
    note = f"worst {mean.worst} {mean.worst_percent:+.1f} %"
    if mean.count < mean.of:
        note += f"; {mean.of - mean.count} of {mean.of} refused"
    if mean.metric == "ms_ssim":
        if mean.group == "all" and mean.area != SLIDE:
            return [_bar(f"bits at equal MS-SSIM, {where}, {mean.peer}, %", mean.percent, 0.0, note=note)]
        return []
    what = f"bits at equal PSNR, {where}, {mean.peer}, %"
    if mean.area == CROP and effort == "fast" and mean.group == "all":
        return [_bar(what, mean.percent, MUST_CROPS[mean.peer], note=note)]
    if mean.area == CROP and effort == "fast" and mean.group == HELD_OUT:
        return [_bar(what, mean.percent, MUST_CROPS[mean.peer] + HELD_OUT_POINTS, note=note)]
    if mean.area == TISSUE and effort != "fast" and mean.group == "all":
        return [_bar(what, mean.percent, MUST_SLIDE[mean.peer], AIM_SLIDE[mean.peer])]
    return []


def _speed_bars(speed: Speed) -> list[Verdict]:
    fast = next((e for e in speed.encode if e.who == "octaves fast"), None)
    native = next(v for v in speed.views if v.label == "1:1")
    slowest = max(speed.views, key=lambda v: v.to_native)
    found = []
    if fast is not None:
        found.append(_bar("fast encodes, times AVIF's speed", fast.ratio_to_avif, 1.0, above=True, note=fast.refused))
    return [
        *found,
        _bar("cold 512x512, native, ms", native.ms.median, COLD_MS, COLD_AIM_MS),
        _bar("slowest view, times native", slowest.to_native, MOST_VIEW_RATIO, note=slowest.label),
        _bar("slowest view, ms", slowest.ms.median, MOST_VIEW_RATIO * COLD_MS, note=slowest.label),
        _bar("networks, kMAC a pixel", speed.mac_per_px / 1000, MOST_KMAC),
        _bar("entropy decoder, Msymbol/s a core", speed.msymbol_s["decode"], LEAST_MSYMBOL_S, above=True),
    ]


def _bar(
    what: str, value: float | None, must: float, aim: float | None = None, *, above: bool = False, note: str = ""
) -> Verdict:
    passes: Callable[[float], bool] = lambda bar: value is not None and (value >= bar if above else value <= bar)  # noqa: E731
    return Verdict(what, value, must, passes(must), aim, None if aim is None else passes(aim), above, note)


def value_at(points: Sequence[FilePoint], area: str, psnr_db: float) -> float:
    """The setting of a codec that gives about this PSNR: between its points, not beyond them."""
    ordered = sorted((p.over(area).psnr_db, p.value) for p in points)
    return float(np.interp(psnr_db, [q for q, _ in ordered], [v for _, v in ordered]))
