"""README's tables, figures and report of the complete slide, drawn from the committed results. Nobody types a number.

python -m benchmarks.readme            writes README.md's blocks, docs/*.svg of the results, docs/report.html, and
                                       docs/paper.md's block with its figures
python -m benchmarks.readme --check    says what differs, and ends with 1 if anything does
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click

from inrwsi.errors import UsageError
from inrwsi.job import write_whole

from . import (
    paper_figures,
    readme_chunks,
    readme_fields,
    readme_models,
    readme_octaves,
    readme_paper,
    readme_use,
    report,
)
from . import report_curves as curves
from . import report_tables as tables
from .octaves_results import OctavesRun
from .paper_results import PaperRun
from .report_pictures import Pictures
from .report_tables import Table
from .results import MeanBd, Run, RunSet, Spread, load

ROOT = Path(__file__).parent.parent
FOLDER = "benchmarks/results"
FIGURE = "docs/rate_distortion.svg"
REPORT = "docs/report.html"  # of the complete slide; without pictures, which would be pieces of it
PEER = "jpeg2000"  # times are told as multiples of its
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
OCTAVES = (readme_octaves.BEGIN, readme_octaves.END)
PAPER = (readme_paper.BEGIN, readme_paper.END)
MODELS = (readme_models.BEGIN, readme_models.END)
_COLUMNS = (tables.BPP, tables.PSNR, tables.MS_SSIM, tables.NUCLEI_F1, tables.CIEDE2000)


@dataclass(frozen=True)
class Results:
    """What the README is drawn from: the fixed sets' files, complete slide first in each; `models` is of one crop."""

    rates: RunSet
    speed: RunSet
    models: RunSet
    octaves: tuple[OctavesRun, ...] = ()
    blocks: tuple[readme_fields.Block, ...] = ()
    paper: PaperRun | None = None
    gpu: dict[str, Any] | None = None


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with 1 if README or figure are not of the results.")
def main(check: bool) -> None:
    """Bring README.md and its figure to the numbers of benchmarks/results."""
    try:
        differing = stale(ROOT, load_results(ROOT))
    except UsageError as error:
        raise click.ClickException(str(error)) from None
    for path, data in differing.items():
        if check:
            click.echo(f"{path}: not of the results; run python -m benchmarks.readme", err=True)
        else:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, data)
            click.echo(f"wrote {path}")
    sys.exit(1 if check and differing else 0)


def load_results(root: Path) -> Results:
    """The committed results under `root`: the full sets, or the quick ones until both full ones are there.

    UsageError where one is missing or of another form.
    """
    folder = root / FOLDER
    names = ("rate_distortion", "speed")
    suffix = "" if all((folder / f"{name}.json").exists() for name in names) else "_quick"
    rates, speed = (load(RunSet, folder / f"{name}{suffix}.json") for name in names)
    sets, tunes = ("crops", "slide", "slide_40x"), ("", "_psnr", "_ms_ssim")
    octaves = [f"octaves_{which}{tune}.json" for which in sets for tune in tunes]
    runs = tuple(load(cast(Any, OctavesRun), folder / name) for name in octaves if (folder / name).exists())
    paper, gpu = folder / "paper.json", folder / "gpu.json"
    return Results(
        rates,
        speed,
        load(RunSet, folder / "models.json"),
        runs,
        readme_fields.blocks(folder) + readme_chunks.blocks(folder) + readme_use.blocks(folder),
        load(PaperRun, paper) if paper.exists() else None,
        json.loads(gpu.read_text(encoding="utf-8")) if gpu.exists() else None,
    )


def stale(root: Path, results: Results) -> dict[Path, bytes]:
    """Files under `root` that are not what the results give, and what they should hold.

    Raises:
        UsageError: README.md has no place for the block, or two.
    """
    readme = root / "README.md"
    text = readme.read_text(encoding="utf-8")
    parts = [
        (block(results), (BEGIN, END)),
        (octaves_block(results), OCTAVES),
        (_paragraphs(readme_models.paragraphs(results.models.runs[0])), MODELS),
        *((_paragraphs([(part.text, part.table)]), part.markers) for part in results.blocks),
    ]
    if results.paper:
        parts.append((_joined(readme_paper.readme_block(results.paper)), PAPER))
    for new, markers in parts:
        text = replaced(text, new, markers)
    wanted = {}
    if results.paper:
        page = root / readme_paper.PAGE
        new = _joined(readme_paper.page_block(results.paper, results.gpu))
        wanted[page] = replaced(page.read_text(encoding="utf-8"), new, PAPER, page.name).encode()
        wanted[root / paper_figures.CURVES] = paper_figures.curves(results.paper).encode()
        wanted[root / paper_figures.SPECTRA] = paper_figures.spectra(results.paper).encode()
    wanted |= {
        readme: text.encode(),
        root / FIGURE: figure(results).encode(),
        root / readme_models.FIGURE: readme_models.figure(results.models.runs[0]).encode(),
        root / REPORT: report.render(results.rates.runs[0], Pictures()).encode(),
    }
    return {path: data for path, data in wanted.items() if not path.exists() or path.read_bytes() != data}


def replaced(text: str, new: str, markers: tuple[str, str] = (BEGIN, END), name: str = "README.md") -> str:
    """`text` with what stands between the markers replaced. UsageError unless each marker is there once, in order."""
    first, last = markers
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in before + after:
        raise UsageError(f"{name}: {first} and, after it, {last} must stand there once each")
    return f"{before}{first}\n{new}\n{last}{after}"


def octaves_block(results: Results) -> str:
    """The Markdown between the markers of the default model."""
    return _paragraphs(readme_octaves.paragraphs(list(results.octaves)))


def _paragraphs(found: Iterable[tuple[str, Table | None]]) -> str:
    """Texts, each with the table under it, if any."""
    return _joined([part for pair in found for part in pair if part is not None])


def _joined(parts: list[str | Table]) -> str:
    return "\n\n".join(part if isinstance(part, str) else markdown(part, set()) for part in parts)


def figure(results: Results) -> str:
    """PSNR over bits on the complete slide, an SVG that needs nothing else."""
    return curves.draw(results.rates.runs[0], curves.QUALITY_CURVES[0], alone=True) + "\n"


def block(results: Results) -> str:
    """The Markdown between the markers."""
    return "\n\n".join([*_at_equal_bits(results.rates.runs[0]), *_at_equal_quality(results.rates), *_times(results)])


def _at_equal_bits(run: Run) -> list[str]:
    points = curves.equal_bits(run)
    if not points:
        raise UsageError(f"{run.slide.name}: no codec was measured near enough to the rate of another for a table")
    return [
        f"On `{run.slide.name}` ({_megapixels(run)}), measured on {run.created_utc[:10]} at {run.created_utc[11:16]} "
        f"UTC, each codec at its setting nearest to {curves.target_bpp(run):.3f} bits a pixel:",
        markdown(tables.points_table(points, _COLUMNS), curves.own_codecs(run)),
        f"![RGB PSNR over bits a pixel of every codec]({FIGURE})",
        f"[The whole report of this slide]({REPORT}), as `inrwsi bench` writes it, without its pictures.",
    ]


def _at_equal_quality(results: RunSet) -> list[str]:
    table = mean_bd(results)
    if not table.rows:
        return []
    own = set().union(*(curves.own_codecs(run) for run in results.runs))
    refused = tables.refusals(row for run in results.runs for row in run.bd if row.codec in own)
    names = ", ".join(f"`{run.slide.name}`" for run in results.runs)
    return [
        "Bits at equal RGB PSNR (BD-rate by PCHIP over the common range; negative is fewer): the mean over "
        f"{names}, and in brackets the lowest and the highest of them, or how many they are where not all of them "
        "could be compared:",
        markdown(table, own),
        *([f"Not compared: {' '.join(refused)}"] if refused else []),
    ]


def mean_bd(results: RunSet) -> Table:
    """A line a codec, a column a reference: the mean BD-rate by RGB PSNR, and its range over the slides."""
    rows = [r for r in results.mean_bd if r.metric == "psnr_rgb" and r.layout in tables.RANDOM_ACCESS]
    references = list(dict.fromkeys(tables.reference_name(row) for row in rows))
    lines: dict[tuple[str, str], dict[str, MeanBd]] = {}
    for row in rows:
        lines.setdefault((row.codec, tables.LAYOUTS[row.layout]), {})[tables.reference_name(row)] = row
    count = len(results.runs)
    order = list(dict.fromkeys(point.codec for run in results.runs for point in run.points))
    ordered = sorted(lines.items(), key=lambda item: order.index(item[0][0]))
    body = tuple((*names, *(_mean(line.get(r), count) for r in references)) for names, line in ordered)
    return Table(("codec", "kept as", *(f"against {r}" for r in references)), body, 2)


def _mean(row: MeanBd | None, slides: int) -> str:
    if row is None:
        return tables.NONE
    if len(row.slides) < slides:
        return f"{tables.percent(row.mean_percent)} ({len(row.slides)} of {slides})"
    if slides == 1:
        return tables.percent(row.mean_percent)
    low, high = min(row.slides.values()), max(row.slides.values())
    return f"{tables.percent(row.mean_percent)} ({tables.percent(low)} to {tables.percent(high)})"


def _times(results: Results) -> list[str]:
    run, rates = results.speed.runs[0], results.rates
    versions = ", ".join(f"{name} {number}" for name, number in rates.runs[0].versions.items())
    width, height = run.sample.picture_wh
    return [
        f"Speed on {width} x {height} pixels of it, glass and all, with {run.machine.cores} cores "
        f"({run.machine.cpu}), as multiples of {PEER}'s in the same run: how many times as many pixels a second "
        "(medians of the repeats), how many times as long for what a viewer asks for, each from a closed file, and the "
        "bytes that this read:",
        markdown(speeds(run), curves.own_codecs(run)),
        f"The commands are `{rates.command}` and `{results.speed.command}`; everything that they measured is in "
        f"[`{FOLDER}`]({FOLDER}), and `python -m benchmarks.readme` draws this part of the page from it.",
        f"<details><summary>Versions</summary>\n\n{versions}\n\n</details>",
    ]


def speeds(run: Run) -> Table:
    """A line a codec, relative to `PEER`: throughput, and the time and the bytes of its finest view and a thumbnail.

    Raises:
        UsageError: the run lacks the peer.
    """
    points = [p for p in run.points if p.layout in tables.RANDOM_ACCESS and p.views]
    peer = next((p for p in points if p.codec == PEER), None)
    if peer is None or peer.encode_mpx_s is None or peer.decode_mpx_s is None:
        raise UsageError(f"the speed run of {run.slide.name} has no times of {PEER}, to which all others are given")
    peer_views = {v.label: v for v in peer.views}
    labels = list(dict.fromkeys(v.label for p in points for v in p.views))
    labels = list(dict.fromkeys((*labels[:1], *labels[-1:])))
    rows = []
    for point in points:
        views = {v.label: v for v in point.views}
        cells = [_times_as(point.encode_mpx_s, peer.encode_mpx_s), _times_as(point.decode_mpx_s, peer.decode_mpx_s)]
        for label in labels:
            view, other = views.get(label), peer_views.get(label)
            cells += [
                _times_as(view.ms if view else None, other.ms if other else None),
                tables.NONE if not view else f"{view.bytes_read:,}",
            ]
        rows.append((*tables.name(point), *cells))
    heads = [head for label in labels for head in (f"{label}, time", "bytes")]
    return Table(("codec", "kept as", "setting", "encode, rate", "decode, rate", *heads), tuple(rows), 3)


def _times_as(own: Spread | None, peer: Spread | None) -> str:
    """The ratio of two medians."""
    return tables.NONE if own is None or peer is None else f"{tables.measure(own.median / peer.median)} x"


def _megapixels(run: Run) -> str:
    width, height = run.sample.picture_wh
    part = "all of its" if run.sample.full else "a sample of"
    return f"{part} {width * height / 1e6:.1f} Mpx{' of half-resolution pixels' if run.slide.halved else ''}"


def markdown(table: Table, own: set[str]) -> str:
    """A table in GitHub's Markdown; rows of our own models are bold."""

    def line(cells: Iterable[str]) -> str:
        safe = (cell.replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(safe)} |"

    marks = ["---" if i < table.words else "---:" for i in range(len(table.heads))]
    rows = [tuple(f"**{c}**" for c in row) if row[0] in own else row for row in table.rows]
    return "\n".join(line(cells) for cells in (table.heads, marks, *rows))


if __name__ == "__main__":
    main()
