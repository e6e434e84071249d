"""What a run's tables say, as text: one place for the page, the terminal and the README, so that they cannot differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .report_pictures import ByteMap
from .results import BdRow, MeanBd, Point, Run, Spread

NONE = "-"
LAYOUTS = {"tiled512": "512 px tiles", "whole": "one picture", "file": "its own file"}
RANDOM_ACCESS = ("tiled512", "file")
METRICS = {"psnr_rgb": "PSNR", "psnr_luma": "luma PSNR", "ms_ssim": "MS-SSIM", "ssim": "SSIM"}
SECTIONS = {
    "HEAD": "header",
    "INDX": "index root",
    "WGHT": "network weights",
    "ICCP": "ICC profile",
    "PREV": "preview",
    "ASSO": "associated images",
}


@dataclass(frozen=True)
class Table:
    """Heads and rows of text. The first `words` columns hold words, and are set to the left; the rest are numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


@dataclass(frozen=True)
class Column:
    """One number of a point: how its head reads, how it is written, and where it comes from."""

    head: str
    form: str
    get: Callable[[Point], float | None]

    def text(self, point: Point) -> str:
        return number(self.get(point), self.form)


def number(value: float | None, form: str) -> str:
    """`value` in `form`, a dash without one. What rounds to nothing has no sign."""
    if value is None:
        return NONE
    text = format(value, form)
    return text.removeprefix("-") if not any(c in "123456789" for c in text) else text


def metric(key: str) -> Callable[[Point], float | None]:
    """The getter of one of a point's metrics."""
    return lambda point: point.metrics.get(key)


def _median(pick: Callable[[Point], Spread | None]) -> Callable[[Point], float | None]:
    def get(point: Point) -> float | None:
        spread = pick(point)
        return None if spread is None else spread.median

    return get


BYTES = Column("bytes", ",", lambda p: p.file_bytes)
BPP = Column("bpp", ".3f", lambda p: p.bpp)
PSNR = Column("PSNR, dB", ".2f", metric("psnr_rgb"))
MS_SSIM = Column("MS-SSIM", ".4f", metric("ms_ssim"))
NUCLEI_F1 = Column("nuclei F1", ".3f", metric("nuclei_f1"))
CIEDE2000 = Column("CIEDE2000", ".2f", metric("ciede2000"))
ENCODE = Column("encode, Mpx/s", ".3g", _median(lambda p: p.encode_mpx_s))
DECODE = Column("decode, Mpx/s", ".3g", _median(lambda p: p.decode_mpx_s))
QUALITY = (
    BYTES,
    BPP,
    Column("bpp, tissue", ".3f", lambda p: p.tissue_bpp),
    PSNR,
    Column("tissue, dB", ".2f", metric("psnr_rgb_tissue")),
    Column("luma, dB", ".2f", metric("psnr_luma")),
    Column("worst 1 %, dB", ".2f", metric("worst1pct_psnr")),
    Column("SSIM", ".4f", metric("ssim")),
    MS_SSIM,
    Column("MS-SSIM, tissue", ".4f", metric("ms_ssim_tissue")),
)
FIDELITY = (
    BPP,
    NUCLEI_F1,
    Column("nuclei Dice", ".3f", metric("nuclei_dice")),
    Column("count error", ".1%", metric("count_error")),
    Column("area error", ".1%", metric("area_error")),
    Column("stain angle, °", ".2f", metric("stain_angle_deg")),
    Column("OD drift", ".4f", metric("od_drift")),
    CIEDE2000,
    Column("fine power", ".3f", metric("spectrum_ratio")),
    Column("task agreement", ".4f", metric("task_agreement")),
    Column("task correlation", ".4f", metric("task_correlation")),
)
OVERVIEW = (BPP, PSNR, MS_SSIM, NUCLEI_F1, CIEDE2000, ENCODE, DECODE)


def points_table(points: Sequence[Point], columns: Sequence[Column]) -> Table:
    """A row a point, in the run's order. Columns without any number are left out."""
    kept = [c for c in columns if any(c.get(p) is not None for p in points)]
    rows = tuple((*name(p), *(c.text(p) for c in kept)) for p in points)
    return Table(("codec", "kept as", "setting", *(c.head for c in kept)), rows, 3)


def name(point: Point) -> tuple[str, str, str]:
    """Codec, layout and setting in words; a file without any error says so."""
    said = "lossless" in point.setting
    setting = f"{point.setting}, lossless" if point.lossless and not said else point.setting
    return point.codec, LAYOUTS[point.layout], setting


def bd_tables(rows: Iterable[BdRow]) -> dict[str, Table]:
    """A table for each reference, by its name: a line a codec and layout, all metrics beside each other, best first."""
    found: dict[str, list[BdRow]] = {}
    for row in rows:
        found.setdefault(reference_name(row), []).append(row)
    return {reference: _bd_table(group) for reference, group in found.items()}


def _bd_table(rows: Sequence[BdRow]) -> Table:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    lines: dict[tuple[str, str], dict[str, BdRow]] = {}
    for row in rows:
        lines.setdefault((row.codec, row.layout), {})[row.metric] = row
    heads = [h for m in metrics for h in (f"{METRICS[m]}: bits", "95 %", "over, dB", "gain, dB")]
    ordered = sorted(lines.items(), key=lambda item: _rank(item[1].get(metrics[0])))
    body = tuple(
        (codec, LAYOUTS[layout], *(cell for m in metrics for cell in _bd_cells(by_metric.get(m))))
        for (codec, layout), by_metric in ordered
    )
    return Table(("codec", "kept as", *heads), body, 2)


def _rank(row: BdRow | None) -> float:
    return math.inf if row is None or row.rate_percent is None else row.rate_percent


def _bd_cells(row: BdRow | None) -> tuple[str, str, str, str]:
    if row is None:
        return NONE, NONE, NONE, NONE
    over = NONE if row.range_db is None else f"{row.range_db[0]:.1f} to {row.range_db[1]:.1f}"
    rate = NONE if row.rate_percent is None else percent(row.rate_percent)
    return rate, interval(row), over, number(row.quality_db, "+.2f")


def refusals(rows: Iterable[BdRow]) -> list[str]:
    """Why there is no BD-rate: a sentence for all references that a codec has the same reason for."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row.refused:
            key = (row.codec, LAYOUTS[row.layout], METRICS[row.metric], row.refused)
            found.setdefault(key, []).append(reference_name(row))
    return [
        f"{codec} ({layout}) by {metric} against {', '.join(dict.fromkeys(references))}: {why}."
        for (codec, layout, metric, why), references in found.items()
    ]


def reference_name(row: BdRow | MeanBd) -> str:
    """The codec that is compared with, and how it is kept."""
    return f"{row.reference} ({LAYOUTS[row.reference_layout]})"


def percent(value: float) -> str:
    """Signed, one digit, none from 100 on."""
    return f"{value:+.1f} %" if abs(value) < 100 else f"{value:+,.0f} %"


def interval(row: BdRow) -> str:
    """The interval of a BD-rate, a dash where there are too few regions for one."""
    if row.low_percent is None or row.high_percent is None:
        return NONE
    return f"{percent(row.low_percent)} to {percent(row.high_percent)}"


def measure(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(value: Spread | None) -> str:
    """Median, and lowest and highest of the repeats; a single measurement shows no spread."""
    if value is None:
        return NONE
    if value.repeats == 1:
        return measure(value.median)
    return f"{measure(value.median)} ({measure(value.min)} to {measure(value.max)})"


def speed_table(points: Iterable[Point]) -> Table:
    """Throughput and memory at each codec's middle setting, the one that views are taken at and times repeated."""
    timed = [p for p in points if p.views and (p.encode_mpx_s is not None or p.decode_mpx_s is not None)]
    heads = ("codec", "kept as", "setting", "encode, Mpx/s", "decode, Mpx/s", "encode, MB", "decode, MB")
    rows = tuple(
        (
            *name(p),
            spread(p.encode_mpx_s),
            spread(p.decode_mpx_s),
            number(p.encode_rss_mb, ",.0f"),
            number(p.decode_rss_mb, ",.0f"),
        )
        for p in timed
    )
    return Table(heads, rows, 3)


def views_table(points: Iterable[Point]) -> Table:
    """Milliseconds and bytes read for what a viewer asks for: two columns a kind of view."""
    shown = [p for p in points if p.views]
    labels = list(dict.fromkeys(v.label for p in shown for v in p.views))
    rows = []
    for point in shown:
        views = {v.label: v for v in point.views}
        cells = []
        for label in labels:
            view = views.get(label)
            cells += [NONE, NONE] if view is None else [spread(view.ms), f"{view.bytes_read:,}"]
        rows.append((*name(point), *cells))
    heads = [h for label in labels for h in (f"{label}, ms", f"{label}, bytes read")]
    return Table(("codec", "kept as", "setting", *heads), tuple(rows), 3)


def bytes_table(where: ByteMap) -> Table:
    """Every byte of the file: chunks an octave, sections, index. The last row is the file's size."""
    pixels = where.l0_wh[0] * where.l0_wh[1]

    def row(what: str, count: int, chunks: str = "", blank: str = "") -> tuple[str, ...]:
        return what, chunks, blank, f"{count:,}", f"{count / where.file_bytes:.1%}", f"{8 * count / pixels:.4f}"

    rows = [
        row(f"octave {o.octave}", int(o.chunk_bytes.sum()), f"{o.chunk_bytes.size:,}", f"{o.blank_chunks:,}")
        for o in where.octaves
    ]
    rows += [row(SECTIONS.get(kind, kind), count) for kind, count in where.section_bytes.items()]
    rest = where.file_bytes - sum(int(o.chunk_bytes.sum()) for o in where.octaves) - sum(where.section_bytes.values())
    rows += [row("index and tables", rest), row("the file", where.file_bytes)]
    return Table(("part", "chunks", "blank", "bytes", "share", "bits a pixel"), tuple(rows), 1)


def sample_table(run: Run) -> Table:
    """Strata of the sample: how many regions there are and how many of them were measured."""
    rows = tuple((s.name, f"{s.population:,}", f"{s.measured:,}") for s in run.sample.strata)
    return Table(("stratum", "regions on the slide", "measured"), rows, 1)
