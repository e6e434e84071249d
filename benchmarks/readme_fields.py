"""README's parts on the fitted models: base layers, guidance losses, optimisers, and ratios asked and got."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import readme_guidance
from .guidance import GuidanceRun
from .optimisers import OptimisersRun
from .ratios import Ratio, RatiosRun
from .report_tables import NONE, Table
from .results import load

HYBRID = ("<!-- hybrid:begin -->", "<!-- hybrid:end -->")
GUIDANCE = (readme_guidance.BEGIN, readme_guidance.END)
OPTIMISERS = ("<!-- optimisers:begin -->", "<!-- optimisers:end -->")
RATIOS = ("<!-- ratios:begin -->", "<!-- ratios:end -->")
_NAMES = {"adam": "Adam", "soap": "SOAP"}


@dataclass(frozen=True)
class Block:
    """What stands between two markers of the README."""

    markers: tuple[str, str]
    text: str
    table: Table | None


def blocks(folder: Path) -> tuple[Block, ...]:
    """Of each of the records that are in the folder of results.

    Raises:
        UsageError: a record is of another form.
    """
    found = []
    if (path := folder / "hybrid.json").exists():
        found.append(Block(HYBRID, *hybrid(json.loads(path.read_text(encoding="utf-8")))))
    if (path := folder / "guidance.json").exists():
        run = load(GuidanceRun, path)
        found.append(Block(GUIDANCE, readme_guidance.text(run), readme_guidance.table(run)))
    if (path := folder / "optimisers.json").exists():
        found.append(Block(OPTIMISERS, *optimisers(load(OptimisersRun, path))))
    if (path := folder / "ratios.json").exists():
        found.append(Block(RATIOS, *ratios(load(RatiosRun, path))))
    return tuple(found)


def hybrid(record: dict[str, Any]) -> tuple[str, Table]:
    """What a field gains over a classic codec's picture, and what the codec does alone: a line a rate and codec."""
    rows: list[tuple[str, ...]] = []
    alone = codec = record["rows"][0]
    model = alone["what"]
    for row in record["rows"]:
        if row["what"] == model:
            alone = row
        elif "base_psnr_db" in row:
            decibels = (alone["psnr_db"], codec["psnr_db"], row["psnr_db"], row["base_psnr_db"])
            field, codecs, both, part = (f"{value:.2f}" for value in decibels)
            times = f"{row['seconds'] / alone['seconds']:.2f} x"
            rows.append((f"{row['bpp']:g}", codec["what"], field, codecs, both, part, times))
        else:
            codec = row
    heads = ("bits a pixel", "codec", "field alone", "codec alone", "both", "the codec's part of both", "time of both")
    text = (
        f"`{alone['what']}` on {record['pixels']} of `{record['slide']}`, one run, all of it at equal bytes, of which "
        "the codec has the given share where there are both. PSNR in dB; time to encode as a multiple of the field's "
        f"alone, beside which the codec's is nothing (`{record['command']}`, [the "
        "record](benchmarks/results/hybrid.json)):"
    )
    return text, Table(heads, tuple(rows), 2)


def optimisers(run: OptimisersRun) -> tuple[str, Table]:
    """What a SOAP step is worth and what it costs, a line for each model and number of passes."""
    rates = {(p.model, p.optimiser): p.rate for p in run.points}
    said = ", ".join(f"{rate:g} of `{model}` by {_NAMES[name]}" for (model, name), rate in rates.items())
    points = {(p.model, p.optimiser, p.passes): p for p in run.points}
    rows = []
    for gain in run.gains:
        adam, soap = (points[gain.model, name, gain.passes] for name in ("adam", "soap"))
        rows.append(
            (
                f"`{gain.model}`",
                f"{gain.passes}",
                f"{adam.psnr_db:.2f}",
                f"{soap.psnr_db:.2f}",
                f"{gain.cpu_percent:+.0f} %",
                NONE if gain.equal_time_db is None else f"{gain.equal_time_db:+.2f}",
            )
        )
    heads = ("model", "passes", "Adam, dB", "SOAP, dB", "CPU time of SOAP", "SOAP at equal time, dB")
    text = (
        f"`--optimiser soap` fits networks by SOAP (Vyas et al. 2024) in place of Adam. On {run.tiles} tiles of "
        f"{run.tile_px} px of `{run.measured_on}` at about {run.bpp:g} bits a pixel, each at its best learning rate of "
        f"a grid on `{run.tuned_on}` (times the model's own: {said}), PSNR of the decoded file (`{run.command}`, "
        "[the record](benchmarks/results/optimisers.json)):"
    )
    return text, Table(heads, tuple(rows), 1)


def ratios(run: RatiosRun) -> tuple[str, Table]:
    """A line a model, a column a ratio: what the file has, or the largest that there is."""
    asked = list(dict.fromkeys(row.asked for row in run.rows))
    models = list(dict.fromkeys(row.model for row in run.rows))
    cells = {(row.model, row.asked): _ratio(row) for row in run.rows}
    rows = tuple((f"`{m}`", *(cells[m, a] for a in asked)) for m in models)
    text = (
        f"`--ratio` of every fitted model on {run.side_px} x {run.side_px} pixels of `{run.slide}`: that of the file "
        "on the disk, header, index and all. Tiles grow by themselves where the target asks for it; a table model's "
        f"network alone may be larger than the file should be (`{run.command}`, "
        "[the record](benchmarks/results/ratios.json)):"
    )
    return text, Table(("model", *(f"asked for {a:g}" for a in asked)), rows, 1)


def _ratio(row: Ratio) -> str:
    return "refused" if row.refused else f"{row.got:.1f}"
