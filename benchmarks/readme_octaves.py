"""README's part on the default model, drawn from results/octaves_*.json: the means first, the rest to be unfolded."""

from __future__ import annotations

from collections.abc import Iterator

from inrwsi.options import TUNES

from .octaves_results import CROP, HELD_OUT, SLIDE, TISSUE, TRAINED, Mean, OctavesRun, Speed, Verdict
from .octaves_table import METRIC_NAMES
from .report_tables import NONE, Table, measure

BEGIN, END = "<!-- octaves:begin -->", "<!-- octaves:end -->"
ALL = "all"
ENDS_BPP = 1.9  # a curve that ends before is told to
Part = tuple[str, Table | None]


def paragraphs(runs: list[OctavesRun]) -> list[Part]:
    """What the README says of the runs: texts, each with the table under it, if any."""
    if not runs:
        return []
    text = (
        "Bits at equal quality, over 0.3 to 2 bits a pixel of the peer as far as both curves reach (BD-rate; negative "
        "is fewer; bold where it is behind), of files that were decoded again, with all that they hold:"
    )
    found: list[Part] = [(text, _summary(runs))]
    for run in runs:
        if run.speed:
            found += _times(run.speed)
    for run in runs:
        found += _details(run)
    return found


def _summary(runs: list[OctavesRun]) -> Table:
    """A line for every run, area, group worth a look, and metric; a column a peer."""
    peers = tuple(dict.fromkeys(m.peer for run in runs for m in run.means))
    body = []
    for run in runs:
        means = _told(run)
        for area, group, metric in dict.fromkeys((m.area, m.group, m.metric) for m in means):
            of_peer = {m.peer: m for m in means if (m.area, m.group, m.metric) == (area, group, metric)}
            if group in (ALL, HELD_OUT):
                what = _subjects(run, area, group, next(iter(of_peer.values())).of)
                cells = (_percent(of_peer.get(peer)) for peer in peers)
                body.append((what, f"`{_options(run)}`", METRIC_NAMES[metric], *cells))
    return Table(("pixels", "encoded with", "at equal", *peers), tuple(body), 3)


def _told(run: OctavesRun) -> list[Mean]:
    """The means without groups that all the images are in, which would say the same again."""
    return [m for m in run.means if m.group == ALL or m.of < len(run.subjects)]


def _subjects(run: OctavesRun, area: str, group: str, count: int) -> str:
    trained = [s for s in run.subjects if s.group == TRAINED]
    if area == CROP:
        return f"{count} crops, {len(trained)} trained on" if group == ALL else f"{count} of them, {group}"
    (subject,) = run.subjects
    part = {TISSUE: "of tiles with any tissue", SLIDE: "in all"}[area]
    return f"{subject.name}, {subject.area_px[area] / 1e6:.1f} Mpx {part}{', trained on' if trained else ''}"


def _options(run: OctavesRun) -> str:
    tune = run.settings["tune"]
    return f"--effort {run.settings['effort']}{'' if tune == TUNES[0] else f' --tune {tune}'}"


def _percent(mean: Mean | None) -> str:
    if mean is None:
        return NONE
    text = f"{mean.percent:+.1f} %"
    return (f"**{text}**" if mean.percent > 0 else text) + _limits(mean)


def _limits(mean: Mean) -> str:
    """What a mean is not of: subjects without a number, and of a single one the rates that a curve does not reach."""
    if mean.count < mean.of:
        return f" ({mean.count} of {mean.of})"
    if mean.of == 1 and mean.peer_bpp is not None and mean.peer_bpp[1] < ENDS_BPP:
        return f" (to {mean.peer_bpp[1]:.2f} bpp)"
    return ""


def _times(speed: Speed) -> Iterator[Part]:
    yield (
        f"What an effort costs, on tissue ({speed.piece}) from memory to a file, with {speed.threads} threads: as "
        "multiples of the faster AVIF's speed. The networks are fitted to a slide once, and so small a piece pays for "
        "that in full:",
        _encoding(speed),
    )
    yield (
        "Views of 512 x 512 pixels of a file that nothing is decoded of yet: as multiples of the time of a native one "
        f"in the same place, and of OpenJPEG's for the native pixels at the same PSNR. The networks take "
        f"{speed.mac_per_px / 1000:.2f} kMAC a pixel, and the entropy decoder {speed.msymbol_s['decode']:.0f} million "
        "symbols a second a core:",
        _views(speed),
    )


def _encoding(speed: Speed) -> Table:
    rates = {row.who: row.mpx_s.median for row in speed.encode if row.mpx_s}
    avif = max((rate for who, rate in rates.items() if who.startswith("avif")), default=None)
    body = []
    for row in speed.encode:
        if row.mpx_s and avif:
            psnr = NONE if row.psnr_db is None else f"{row.psnr_db:.2f}"
            size = NONE if row.file_bytes is None else f"{row.file_bytes:,}"
            body.append((row.who, row.setting, size, psnr, f"{measure(row.mpx_s.median / avif)} x"))
    return Table(("codec", "setting", "bytes", "PSNR, dB", "speed"), tuple(body), 2)


def _views(speed: Speed) -> Table:
    body = [(v.label, f"{v.step:g}", f"{v.to_native:.2f} x", f"{v.to_openjpeg:.2f} x") for v in speed.views]
    return Table(("view", "level-0 pixels a pixel", "native", "OpenJPEG"), tuple(body), 1)


def _details(run: OctavesRun) -> Iterator[Part]:
    """Every group with its worst image, and every value that is to be reached."""
    missed = [f"{bar.what}: {_value(bar)}" for bar in run.verdicts if not bar.met]
    told = f"{len(run.verdicts) - len(missed)} of {len(run.verdicts)} values are what they must be"
    told += f", not {'; '.join(missed)}" if missed else ""
    yield f"<details><summary><code>{run.command}</code>: {told}</summary>", None
    means = _told(run)
    for area, metric in dict.fromkeys((m.area, m.metric) for m in means):
        rows = [m for m in means if (m.area, m.metric) == (area, metric)]
        groups = ", ".join(f"{g} ({n})" for g, n in dict.fromkeys((m.group, m.of) for m in rows))
        text = (
            f"Bits at equal {METRIC_NAMES[metric]}, {area}, means over {groups}; in brackets the image that does worst:"
        )
        yield text, _means(rows)
    short = sum(not c.complete for c in run.comparisons)
    if short:
        yield (
            f"{short} of the {len(run.comparisons)} comparisons are of a part of 0.3 to 2 bpp: a curve ends before.",
            None,
        )
    yield "What is to be reached:", _verdicts(run)
    for note in run.notes:
        yield f"{note[0].upper()}{note[1:]}.", None
    yield "</details>", None


def _means(rows: list[Mean]) -> Table:
    peers = tuple(dict.fromkeys(m.peer for m in rows))
    body = []
    for group in dict.fromkeys(m.group for m in rows):
        of_peer = {m.peer: m for m in rows if m.group == group}
        body.append((group, *(_mean(of_peer.get(peer)) for peer in peers)))
    return Table(("images", *peers), tuple(body), 1)


def _mean(mean: Mean | None) -> str:
    if mean is None:
        return NONE
    return f"{mean.percent:+.1f} % ({mean.worst} {mean.worst_percent:+.1f} %)" + _limits(mean)


def _verdicts(run: OctavesRun) -> Table:
    body = []
    for bar in run.verdicts:
        sign = "at least" if bar.above else "at most"
        body.append((bar.what, _value(bar), f"{sign} {bar.must:g}", "yes" if bar.met else "**no**"))
    return Table(("what", "measured", "must be", "reached"), tuple(body), 1)


def _value(bar: Verdict) -> str:
    return NONE if bar.value is None else f"{bar.value:.2f}"
