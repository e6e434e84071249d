"""The report of one run: a page that needs nothing but itself, the JSON behind it, and a table for the terminal."""

from __future__ import annotations

from html import escape
from pathlib import Path

from rich.box import SIMPLE
from rich.table import Table as TerminalTable

from inrwsi.errors import UsageError
from inrwsi.job import write_whole

from . import report_curves as curves
from . import report_tables as tables
from .report_page import details, facts, page, pre, section, table_html
from .report_parts import byte_map_html, crops_html, headline_cards
from .report_pictures import Pictures
from .results import Run, save

PAGE, DATA = "report.html", "report.json"


def write(run: Run, pictures: Pictures, out_dir: Path) -> Path:
    """Write `report.html` and `report.json` into `out_dir`, each whole or not at all; the page's path.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        saved = save(run, out_dir / DATA)
        write_whole(out_dir / PAGE, render(saved, pictures).encode())
    except OSError as error:
        raise UsageError(f"{out_dir}: cannot be written ({error.strerror}); choose another folder") from None
    return out_dir / PAGE


def render(run: Run, pictures: Pictures) -> str:
    """The page as text. The same run and pictures give the same text."""
    sections = [
        section("curves", "Quality at a rate", _quality(run)),
        section("bd", "Bits at equal quality", _bd(run)),
        section("equal", "At nearly equal bits", _equal(run, pictures)),
        section("fidelity", "What a diagnosis rests on", _fidelity(run)),
        section("bits", "Where the bits went", byte_map_html(pictures.byte_map, run) if pictures.byte_map else ""),
        section("speed", "Time, memory and bytes read", _speed(run)),
        section("points", "Every measurement", _points(run)),
        section("method", "How it was measured", _method(run)),
    ]
    slide = run.slide
    size = f"{slide.width:,} x {slide.height:,} pixels" + (" (halved)" if slide.halved else "")
    measured = run.sample.picture_wh[0] * run.sample.picture_wh[1] / 1e6
    head = [
        ("slide", size),
        ("pixel", "size unknown" if slide.mpp_um is None else f"{slide.mpp_um:.4g} µm"),
        ("measured", f"{measured:.1f} Mpx, {'all of it' if run.sample.full else 'a sample'}"),
        ("on", run.created_utc),
    ]
    return page(slide.name, head, headline_cards(run), [s for s in sections if s])


def terminal_table(run: Run) -> TerminalTable:
    """Every point on a line: what it costs, what it keeps, how fast it is."""
    table = tables.points_table(run.points, tables.OVERVIEW)
    shown = TerminalTable(box=SIMPLE, title=f"{run.slide.name}: {run.sample.text}", title_justify="left")
    for i, head in enumerate(table.heads):
        shown.add_column(head, justify="left" if i < table.words else "right", no_wrap=i < table.words)
    own = curves.own_codecs(run)
    for point, row in zip(run.points, table.rows, strict=True):
        shown.add_row(*row, style="bold" if point.codec in own else None)
    return shown


def _quality(run: Run) -> str:
    drawn = [curves.draw(run, c) for c in curves.QUALITY_CURVES if curves.has(run, c)]
    whole = [curves.draw(run, c, ("whole",)) for c in curves.QUALITY_CURVES if curves.has(run, c, ("whole",))]
    text = (
        "<p>Bits are of the files on the disk, with all their headers and indices; quality is of what was decoded "
        "from them. "
        "A slide needs random access, so codecs without a slide format of their own are kept as 512-pixel tiles "
        "in one file. An open mark on the upper edge has no error. Hover over a mark for its numbers.</p>"
    )
    charts = f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""
    if whole:
        # Open from the start: a page that is printed shows what is open only.
        charts += details(
            "The same as one picture, without random access", f'<div class="charts">{"".join(whole)}</div>'
        )
    return text + charts if charts else ""


def _bd(run: Run) -> str:
    if not run.bd:
        return ""
    own = curves.own_codecs(run)
    parts = [
        "<p>Bjontegaard's difference: the mean difference in bits over the range of quality that both codecs were "
        "measured "
        "in (over), by piecewise cubic (PCHIP) interpolation of the logarithm of the rate. Nothing is extrapolated. "
        "Negative is fewer bits. Gain is the mean difference in quality at equal bits. PSNR is of RGB; MS-SSIM is "
        "compared "
        "as -10 log10(1 - x). Intervals are from a bootstrap over the measured regions, where a file says what a "
        "region "
        "costs.</p>"
    ]
    for reference, table in tables.bd_tables(run.bd).items():
        parts.append(f"<h3>against {escape(reference)}</h3>{table_html(table, [row[0] in own for row in table.rows])}")
    refused = tables.refusals(run.bd)
    if refused:
        parts.append(f"<p>Not compared: {escape(' '.join(refused))}</p>")
    return "".join(parts)


def _equal(run: Run, pictures: Pictures) -> str:
    points = curves.equal_bits(run)
    if not points:
        return ""
    own = curves.own_codecs(run)
    text = (
        "<p>The setting of each codec whose rate is nearest; those without any setting near enough are not shown.</p>"
    )
    shown = table_html(tables.points_table(points, tables.OVERVIEW), [p.codec in own for p in points])
    return text + shown + crops_html(pictures.crops, own)


def _fidelity(run: Run) -> str:
    drawn = [curves.draw(run, c) for c in curves.FIDELITY_CURVES if curves.has(run, c)]
    equal = curves.equal_bits(run)
    if any(p.spectrum_ratio for p in equal):
        drawn.append(curves.spectrum(run, equal))
    if not drawn:
        return ""
    text = (
        "<p>The same fixed, untrained pipeline finds nuclei in the original and in the decoded picture (stain "
        "deconvolution, threshold, watershed), and its findings in the original are taken for the truth: this "
        "says what "
        "coding changes, not how many nuclei there are. Stain angles, optical density and CIEDE2000 say what became of "
        "colour; the power spectrum, at the settings of nearly equal bits, what became of fine detail.</p>"
    )
    return f'{text}<div class="charts">{"".join(drawn)}</div>'


def _speed(run: Run) -> str:
    timed, views = tables.speed_table(run.points), tables.views_table(run.points)
    own = curves.own_codecs(run)
    parts = []
    if timed.rows:
        parts.append(
            "<p>Median of the repeats (lowest to highest), one codec after the other on the machine below. Memory "
            "is the "
            "highest above what the process held before.</p>"
        )
        parts.append(table_html(timed, [row[0] in own for row in timed.rows]))
    if views.rows:
        parts.append(
            "<h3>What a viewer waits for</h3><p>512 x 512 pixels at a magnification, and a thumbnail, each from a "
            "closed "
            "file, over the same places for all. A file without lower levels must decode all that a view covers.</p>"
        )
        parts.append(table_html(views, [row[0] in own for row in views.rows]))
    return "".join(parts)


def _points(run: Run) -> str:
    own = curves.own_codecs(run)
    quality, fidelity = (
        tables.points_table(run.points, tables.QUALITY),
        tables.points_table(run.points, tables.FIDELITY),
    )
    marks = [p.codec in own for p in run.points]
    return (
        f"<h3>Rate and quality</h3>{table_html(quality, marks)}"
        f"<h3>Fidelity</h3>{table_html(fidelity, marks)}"
        f"<p>All of it with every digit is in <code>{DATA}</code>.</p>"
    )


def _method(run: Run) -> str:
    sample, machine, slide = run.sample, run.machine, run.slide
    strata = tables.sample_table(run)
    parts = [pre(run.command), f"<p>{escape(sample.text)}</p>"]
    parts += [f"<p>{escape(note)}</p>" for note in run.notes]
    if strata.rows:
        parts.append(table_html(strata, [False] * len(strata.rows)))
    pairs = [
        ("source file", f"{slide.name}, {slide.bytes_on_disk:,} bytes, tissue on {slide.tissue_share:.0%} of it"),
        ("pixels given to all", f"{sample.picture_wh[0]:,} x {sample.picture_wh[1]:,}, SHA-256 {sample.sha256}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:.3g} GB, {machine.platform}"),
        ("Python", machine.python),
        ("libraries", ", ".join(f"{k} {v}" for k, v in run.versions.items())),
        ("settings", ", ".join(f"{k} {v}" for k, v in run.settings.items() if not isinstance(v, dict) and v != "")),
    ]
    pairs += [(name, str(about)) for name, about in run.settings.get("codecs", {}).items()]
    return "".join(parts) + facts(pairs)
