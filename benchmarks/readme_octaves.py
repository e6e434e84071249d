"""README's part on the default model, drawn from results/octaves_*.json."""

from __future__ import annotations

from .octaves_results import Mean, OctavesRun
from .octaves_table import METRIC_NAMES
from .report_tables import Table

BEGIN, END = "<!-- octaves:begin -->", "<!-- octaves:end -->"


def paragraphs(runs: list[OctavesRun]) -> list[tuple[str, Table | None]]:
    """What the README says of the runs: texts, each with the table under it, if any."""
    found: list[tuple[str, Table | None]] = []
    for run in runs:
        for area, metric in dict.fromkeys((m.area, m.metric) for m in run.means):
            found.append((_heading(run, area, metric), _means(run, area, metric)))
        found.append((f"Where it stands against what it is to reach, by `{run.command}`:", _verdicts(run)))
    return found


def _heading(run: OctavesRun, area: str, metric: str) -> str:
    worst = [m for m in run.means if (m.area, m.metric) == (area, metric)]
    groups = list(dict.fromkeys(m.group for m in worst))
    sizes = ", ".join(f"{g} ({next(m.of for m in worst if m.group == g)})" for g in groups)
    tuned = "" if run.settings.get("tune", "psnr") == "psnr" else f", encoded with `--tune {run.settings['tune']}`"
    return (
        f"Bits at equal {METRIC_NAMES[metric]}, {area}{tuned}, over 0.3 to 2 bpp of the peer (negative is fewer), "
        f"means over {sizes}; in brackets the image that does worst:"
    )


def _means(run: OctavesRun, area: str, metric: str) -> Table:
    rows = [m for m in run.means if (m.area, m.metric) == (area, metric)]
    peers = tuple(dict.fromkeys(m.peer for m in rows))
    body = []
    for group in dict.fromkeys(m.group for m in rows):
        of_peer = {m.peer: m for m in rows if m.group == group}
        body.append((group, *(_mean(of_peer.get(peer)) for peer in peers)))
    return Table(("images", *peers), tuple(body), 1)


def _mean(mean: Mean | None) -> str:
    return "-" if mean is None else f"{mean.percent:+.1f} % ({mean.worst} {mean.worst_percent:+.1f} %)"


def _verdicts(run: OctavesRun) -> Table:
    body = []
    for bar in run.verdicts:
        sign = "at least" if bar.above else "at most"
        value = "-" if bar.value is None else f"{bar.value:.2f}"
        body.append((bar.what, value, f"{sign} {bar.must:g}", "yes" if bar.met else "**no**"))
    return Table(("what", "measured", "must be", "reached"), tuple(body), 1)
