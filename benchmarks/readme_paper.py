"""README's and docs/paper.md's parts on the paper reproduced, drawn from results/paper.json and results/gpu.json."""

from __future__ import annotations

from typing import Any

from .paper_figures import NAMES
from .paper_results import Curve, PaperRun
from .report_tables import NONE, Table

BEGIN, END = "<!-- paper:begin -->", "<!-- paper:end -->"
PAGE = "docs/paper.md"
CLAIM_DB = (3.0, 6.0)
OURS = "cinr"


def table(run: PaperRun) -> Table:
    """A line a network and schedule: what it reaches after all epochs, and how far CINR is above it."""
    body = []
    for schedule in dict.fromkeys(curve.schedule for curve in run.curves):
        own = _own(run, schedule)
        for curve in run.of(schedule):
            last, gain, at_time = curve.epochs[-1], NONE, NONE
            if curve.model != OURS:
                gain, there = f"{own.epochs[-1].psnr_db - last.psnr_db:+.2f} dB", at_cpu_s(own, last.cpu_s)
                at_time = NONE if there is None else f"{there - last.psnr_db:+.2f} dB"
            body.append(
                (
                    NAMES[curve.model],
                    schedule,
                    f"{curve.parameters:,}",
                    f"{last.number}",
                    f"{last.steps:,}",
                    f"{last.psnr_db:.2f}",
                    f"{last.ssim:.4f}",
                    f"{last.cpu_s:,.0f}",
                    gain,
                    at_time,
                )
            )
    heads = ("network", "rates", "its parameters", "epochs", "steps", "PSNR, dB", "SSIM", "CPU s")
    return Table((*heads, "CINR above it, equal steps", "equal time"), tuple(body), 2)


def _own(run: PaperRun, schedule: str) -> Curve:
    return next(curve for curve in run.of(schedule) if curve.model == OURS)


def at_cpu_s(curve: Curve, cpu_s: float) -> float | None:
    """PSNR of the last epoch that ended within so much time; None where none did."""
    return next((epoch.psnr_db for epoch in reversed(curve.epochs) if epoch.cpu_s <= cpu_s), None)


def gains(run: PaperRun, schedule: str) -> dict[str, float]:
    """How many dB CINR is above each other network after all epochs."""
    own = _own(run, schedule).epochs[-1].psnr_db
    return {curve.model: own - curve.epochs[-1].psnr_db for curve in run.of(schedule) if curve.model != OURS}


def verdict(run: PaperRun) -> str:
    """Whether the claim holds on this crop, in one sentence a schedule."""
    low, high = CLAIM_DB
    parts = []
    for schedule in dict.fromkeys(curve.schedule for curve in run.curves):
        found = gains(run, schedule)
        said = " and ".join(f"{gain:+.2f} dB against {NAMES[model]}" for model, gain in found.items())
        claimed = f"the {low:g} to {high:g} dB that the paper claims"
        if all(low <= gain <= high for gain in found.values()):
            word = f"within {claimed}"
        elif all(gain > high for gain in found.values()):
            word = f"more than {claimed}"
        elif all(gain < low for gain in found.values()):
            word = f"less than {claimed}"
        else:
            word = f"not all of it within {claimed}"
        parts.append(f"With the {schedule} rates CINR comes to {said} at equal steps: {word}.")
    return " ".join(parts)


def setting(run: PaperRun) -> str:
    """What was fitted to what."""
    grid = run.grid
    return (
        f"{run.side_px} x {run.side_px} pixels of `{run.slide}` at {run.l0_xy[0]}, {run.l0_xy[1]}; a hash grid of "
        f"{grid.levels} levels of {grid.features} features from {grid.base_resolution} vertices a side, each "
        f"{grid.per_level_scale:.4f} times the last, at most 2^{grid.log2_table} entries a level: "
        f"{grid.parameters:,} parameters, {grid.entries_a_px:.2f} entries a pixel; {run.batch} patch of "
        f"{run.patch_px} x {run.patch_px} a step."
    )


def file_line(run: PaperRun) -> str:
    """What the files hold of the same crop."""
    values = run.grid.parameters + _own(run, run.curves[0].schedule).parameters
    return " ".join(
        f"The `.cinr` file that `encode --model {row.model}` makes of the same crop, with a smaller network and whole "
        f"numbers, has {row.file_bytes:,} bytes ({row.bpp:.2f} bits a pixel) and decodes to {row.psnr_db:.2f} dB, "
        f"SSIM {row.ssim:.4f}, after {row.cpu_s:,.0f} s of CPU time. The table and CINR's network above, {values:,} "
        f"numbers, are {16 * values / run.side_px**2:.1f} bits a pixel at 16 bits each."
        for row in run.files
    )


def gpu_line(gpu: dict[str, Any] | None) -> str:
    """What the GPU's record says of the paper's own size."""
    result = (gpu or {}).get("results", {}).get("paper", {})
    if "points" not in result or (gpu or {}).get("device") != "cuda":
        return (
            "At the paper's own size it has not been run yet. That takes a GPU, and `python -m benchmarks.gpu --only "
            "paper` with the crop that `python -m benchmarks.gpu_carry --slide slide-40x.tiff` makes."
        )
    times = []
    for quality, seconds in result["seconds_to"].items():
        reference = result["reference_s"][quality]
        took = "not reached" if seconds is None else f"{seconds:,.0f} s"
        times.append(f"{quality} dB: {took} (the reference on an A5000: {reference:,.0f} s)")
    return (
        f"At the paper's own size, {result['side_px']:,} x {result['side_px']:,} pixels and {result['parameters']:,} "
        f"parameters, on {(gpu or {})['machine']['gpu']}: {result['psnr_db']:.2f} dB after {result['fit_s']:,.0f} s, "
        f"{result['epochs']} epochs. {'; '.join(times)}."
    )


def readme_block(run: PaperRun) -> list[str | Table]:
    """Between README's markers."""
    return [f"`{run.command}`: {setting(run)} {verdict(run)}", table(run)]


def page_block(run: PaperRun, gpu: dict[str, Any] | None) -> list[str | Table]:
    """Between the page's markers."""
    rates = "; ".join(
        f"{r.schedule}: tables {r.table:g}, sine layers {r.sine:g}, MLPs {r.mlp:g}, "
        f"{'constant' if r.constant else 'then a cosine'}"
        for r in run.rates
    )
    return [
        f"`{run.command}`, {run.created_utc[:10]}, on {run.machine.cpu}: {setting(run)}",
        f"Learning rates of Adam: {rates}.",
        table(run),
        verdict(run),
        file_line(run),
        gpu_line(gpu),
    ]
