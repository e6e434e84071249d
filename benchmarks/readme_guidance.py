"""README's part on the guidance losses, drawn from results/guidance.json."""

from __future__ import annotations

from collections.abc import Sequence

from .guidance import GuidancePoint, GuidanceRun, name_of
from .report_tables import Table

BEGIN, END = "<!-- guidance:begin -->", "<!-- guidance:end -->"
# Of each figure its heading, the name of its field and its digits.
_FIGURES = (
    ("PSNR in dB", "psnr_db", 2),
    ("MS-SSIM", "ms_ssim", 4),
    ("F1 of nuclei", "nuclei_f1", 3),
    ("Dice of nuclei", "nuclei_dice", 3),
)
_HEADS = ("slide", "`--loss`", "bytes", *(head for head, _, _ in _FIGURES), "time to encode")


def text(run: GuidanceRun) -> str:
    """What stands above the table."""
    crops = " and ".join(f"`{c.slide}` at {c.l0_xy[0]}, {c.l0_xy[1]} ({c.nuclei} nuclei)" for c in run.crops)
    seeds = len({p.variant.seed for p in run.points if p.variant.loss == "mse"})
    bpp = sum(p.bpp for p in run.points) / len(run.points)
    return (
        f"What they do at equal bits: `{run.model}`, {run.passes} passes, files of {bpp:.2f} bits a pixel of the "
        f"{run.crop_px} x {run.crop_px} pixels with the most nuclei, among those of a grid, of {crops}. Of squared "
        f"error, the mean of {seeds} seeds and from the lowest to the highest: what lies between these is chance. The "
        f"network has {run.network.weights:,} weights, and was trained in {run.network.steps} steps on "
        f"`{run.network.slide}` to give the classical map of nuclei, which it does with a Dice coefficient of "
        f"{run.network.dice:.2f}. Time is the processor's, as a multiple of squared error's (`{run.command}`, "
        "[the record](benchmarks/results/guidance.json)):"
    )


def table(run: GuidanceRun) -> Table:
    """A line a loss and slide; that of squared error is of all its seeds."""
    body = []
    for crop in run.crops:
        points = [p for p in run.points if p.slide == crop.slide]
        plain = [p for p in points if p.variant.loss == "mse"]
        seconds = sum(p.cpu_seconds for p in plain) / len(plain)
        body.append((crop.slide, "mse", _bytes(plain), *(_range(plain, *figure[1:]) for figure in _FIGURES), "1 x"))
        for point in points:
            if point not in plain:
                figures = (f"{getattr(point, name):.{digits}f}" for _, name, digits in _FIGURES)
                times = f"{point.cpu_seconds / seconds:.1f} x"
                body.append((crop.slide, name_of(point.variant), _bytes([point]), *figures, times))
    return Table(_HEADS, tuple(body), 2)


def _bytes(points: Sequence[GuidancePoint]) -> str:
    return f"{sum(p.file_bytes for p in points) / len(points):,.0f}"


def _range(points: Sequence[GuidancePoint], name: str, digits: int) -> str:
    values = [getattr(point, name) for point in points]
    low, mean, high = (f"{v:.{digits}f}" for v in (min(values), sum(values) / len(values), max(values)))
    return f"{mean} ({low} to {high})"
