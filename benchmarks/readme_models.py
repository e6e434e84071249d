"""README's part on all models side by side, drawn from results/models.json."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class, model_names
from inrwsi.options import known_models

from . import report_curves as curves
from . import report_tables as tables
from .codecs_ours import EFFORT
from .report_svg import Axis, Series, chart
from .report_tables import Table
from .results import Point, Run, Spread

BEGIN, END = "<!-- models:begin -->", "<!-- models:end -->"
FIGURE = "docs/models.svg"
PEER = "jpeg2000"  # times are told as multiples of its
GREY = 7  # colour of every codec that is not ours
_ASKED = "bpp="  # how the setting of a fitted model begins
_COLUMNS = (tables.BYTES, tables.BPP, tables.PSNR, tables.MS_SSIM)


def check_models(run: Run) -> None:
    """UsageError unless every model of the package was measured."""
    missing = [name for name in known_models() if name not in curves.own_codecs(run)]
    if missing:
        raise UsageError(f"results/models.json: lacks {', '.join(missing)}; run {run.command}")


def paragraphs(run: Run) -> list[tuple[str, Table | None]]:
    """What the README says of the run: texts, each with the table under it, if any.

    Raises:
        UsageError: a model was not measured, or the codec that times are told by.
    """
    check_models(run)
    return [
        (
            f"All models beside the codecs (in tiles of 512 pixels), on one picture of `{run.slide.name}`, "
            f"{run.sample.text}. Bytes are of the file, with every network that it holds; the bits a pixel that a "
            "model was asked for are of its tiles. `cinr`, `ngp` and `engp` have one network a file beside, which "
            "many tiles share on a slide, and here one pays for. Times are seconds of the CPU "
            f"({run.machine.cpu}, busy with other work too) a megapixel, and in brackets multiples of {PEER}'s in the "
            "same run:",
            times_table(run),
        ),
        (f"![RGB PSNR over bits a pixel of every model and codec]({FIGURE})", None),
        (
            f"By `{run.command}` ([the record](benchmarks/results/models.json)); `octaves` with `--effort {EFFORT}`, "
            f"those that are fitted for a part of their own passes, for the time: {_passes(run)}.",
            None,
        ),
    ]


def _passes(run: Run) -> str:
    """Passes of the fits and those of `inrwsi encode`, with the models that had so many."""
    found: dict[str, list[str]] = {}
    for name in model_names():
        taken = re.search(r"in (\d+) passes", run.settings["codecs"][name])
        if taken is None:
            raise UsageError(f"results/models.json: does not say how {name} was fitted; run {run.command}")
        found.setdefault(f"{taken[1]} of {config_class(name).passes}", []).append(f"`{name}`")
    return "; ".join(f"{many} {', '.join(names)}" for many, names in found.items())


def times_table(run: Run) -> Table:
    """A line a model or codec and setting: bytes, quality, and CPU time beside that of `PEER`."""
    peer = [p for p in run.points if p.codec == PEER and p.encode_cpu_s and p.decode_cpu_s]
    if not peer:
        raise UsageError(f"results/models.json: lacks times of {PEER}; run {run.command}")
    repeated = max(peer, key=lambda p: p.encode_cpu_s.repeats if p.encode_cpu_s else 0)
    rows = []
    for point in shown(run):
        cells = [column.text(point) for column in _COLUMNS]
        cells.append(_time(point.encode_cpu_s, repeated.encode_cpu_s, point.pixels))
        cells.append(_time(point.decode_cpu_s, repeated.decode_cpu_s, point.pixels))
        rows.append((point.codec, point.setting, *cells))
    heads = ("codec", "setting", *(c.head for c in _COLUMNS), "encode, s/Mpx", "decode, s/Mpx")
    return Table(heads, tuple(rows), 2)


def _time(own: Spread | None, peer: Spread | None, pixels: int) -> str:
    if own is None or peer is None:
        return tables.NONE
    return f"{tables.measure(own.median / pixels * 1e6)} ({tables.measure(own.median / peer.median)} x)"


def shown(run: Run) -> list[Point]:
    """The points of the table, ours first: of a model that is fitted all, of others the nearest to each of its rates.

    UsageError where nothing was fitted.
    """
    rates = sorted({float(p.setting.removeprefix(_ASKED)) for p in run.points if p.setting.startswith(_ASKED)})
    if not rates:
        raise UsageError(f"results/models.json: has no model that is fitted; run {run.command}")
    found: list[Point] = []
    for codec in _order(run):
        points = [p for p in run.points if p.codec == codec]
        if not points[0].setting.startswith(_ASKED):
            chosen = [_nearest(points, bpp) for bpp in rates]
            points = [p for p in points if p in chosen]
        found += points
    return found


def _nearest(points: Sequence[Point], bpp: float) -> Point:
    return min(points, key=lambda p: abs(math.log(p.bpp / bpp)))


def _order(run: Run) -> list[str]:
    """Names as they stand in table and figure: our models, the default first, then codecs in the order of the run."""
    own = curves.own_codecs(run)
    others = dict.fromkeys(p.codec for p in run.points if p.codec not in own)
    return [*(name for name in known_models() if name in own), *others]


def figure(run: Run) -> str:
    """PSNR over bits: a colour for each of our models, all other codecs grey, every curve with its name beside it."""
    check_models(run)
    own = curves.own_codecs(run)
    hues = (n for n in range(len(run.points)) if n != GREY)
    series = []
    for codec in _order(run):
        points = tuple(
            (p.bpp, p.metrics["psnr_rgb"], f"{codec}, {p.setting}: {p.bpp:.3f} bpp, {p.metrics['psnr_rgb']:.2f} dB")
            for p in run.points
            if p.codec == codec
        )
        series.append(Series(codec, next(hues) if codec in own else GREY, points, codec in own))
    return chart("RGB PSNR", Axis("bits a pixel", log=True), Axis("dB"), series, alone=True, beside=True) + "\n"
