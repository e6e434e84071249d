"""README's sentences on what users wait for beside a single view: patches for training, tiles for many at one slide."""

from __future__ import annotations

from pathlib import Path

from .patches import PatchesRun
from .readme_fields import Block
from .results import load
from .serve_load import LoadRun

PATCHES = ("<!-- patches:begin -->", "<!-- patches:end -->")
SERVED = ("<!-- served:begin -->", "<!-- served:end -->")


def blocks(folder: Path) -> tuple[Block, ...]:
    """Of each of the records that are in the folder of results.

    Raises:
        UsageError: a record is of another form.
    """
    found = []
    if (path := folder / "patches_quick.json").exists():
        found.append(Block(PATCHES, patches(load(PatchesRun, path)), None))
    if (path := folder / "serve_load.json").exists():
        found.append(Block(SERVED, served(load(LoadRun, path)), None))
    return tuple(found)


def patches(run: PatchesRun) -> str:
    """Patches a second as a multiple of OpenSlide's, from the least to the most."""
    ratios = [speed.ratio.median for speed in run.speeds]
    workers = sorted({speed.workers for speed in run.speeds})
    return (
        f"In one run on {run.machine.cores} cores, with {workers[0]} to {workers[-1]} workers, patches at "
        f"{run.slide.step:.2g} level-0 pixels a pixel of a `.cinr` file of {run.slide.cinr_bytes / 1e6:.1f} MB came at "
        f"{min(ratios):.2f} to {max(ratios):.2f} times the rate of OpenSlide's of its source of "
        f"{run.slide.bytes_on_disk / 1e6:.0f} MB "
        f"(`{run.command}`, [the record](benchmarks/results/patches_quick.json))."
    )


def served(run: LoadRun) -> str:
    """Times of a tile as multiples of those of a server on OpenSlide, with and without tiles that are kept."""
    ours, uncached, theirs = run.servers
    errors = sum(server.errors for server in (ours, uncached))
    said = [
        f"{server.p50_ms / theirs.p50_ms:.2f} (median) and {server.p95_ms / theirs.p95_ms:.2f} (95th percentile)"
        for server in (ours, uncached)
    ]
    slide = Path(run.slide["name"])
    command = f"python -m benchmarks.serve_load --cinr {slide.stem}.cinr --source {slide.name}"
    return (
        f"{run.settings['clients']} clients that pan for {run.settings['seconds']:g} seconds on {run.machine.cores} "
        f"cores: {errors or 'no'} errors, and a tile in {said[0]} of the time that a Deep Zoom server on OpenSlide "
        f"takes for the source slide in the same run; {said[1]} where no tile is kept "
        f"(`{command}`, [the record](benchmarks/results/serve_load.json))."
    )
