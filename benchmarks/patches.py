"""Patches a second of `inrwsi.data.PatchDataset`, of a `.cinr` file beside OpenSlide on the slide it was made of.

    python -m benchmarks.patches --slide slide.tiff [--cinr slide.cinr] [--downsample 2] [--quick] [--out FILE.json]

The same patches of tissue, 256 x 256 pixels at 0.5 um a pixel (at downsample 2 where the slide does not say how large
its pixels are), through a DataLoader of 0, 1 and 2 workers, in the order of a grid and in random order. The two take
turns in one run, and each figure is of a data set that has read nothing yet but its first batches, which are not
counted: what starts and compiles does so there. A ratio is of the two in the same turn. OpenSlide must have a tiled
pyramid, as laboratories do. With no workers a `.cinr` file is decoded on all of torch's threads; a worker has one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import openslide
import torch
from torch.utils.data import DataLoader

from inrwsi.cli.progress_view import progress_view
from inrwsi.data import PatchDataset
from inrwsi.encode import encode
from inrwsi.errors import InrwsiError, UsageError
from inrwsi.formats.source import open_source
from inrwsi.metrics import SquaredError
from inrwsi.options import EncodeOptions
from inrwsi.progress import Progress, Report

from . import results
from .probe import library_versions, spread
from .record import head
from .results import Record, Spread

RESULTS = Path(__file__).parent / "results"
ORDERS = ("grid", "random")
READERS = ("openslide", "cinr")
UNCOUNTED = 2  # batches a worker, of those that come first
MPP_UM = 0.5
DOWNSAMPLE = 2.0


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        slide, cinr: the same slide, for OpenSlide and encoded.
        scale: of `PatchDataset`: {"mpp": 0.5}, or {"downsample": 2.0}.
        patches: that are counted, of each order; fewer where the slide has fewer of tissue.
        workers: of the DataLoader.
    """

    slide: Path
    cinr: Path
    scale: dict[str, float]
    patch_px: int = 256
    patches: int = 384
    batch: int = 32
    workers: tuple[int, ...] = (0, 1, 2)
    repeats: int = 3
    min_tissue: float = 0.5
    seed: int = 2024

    def quick(self) -> Plan:
        """The same of fewer patches, once."""
        return replace(self, patches=48, batch=8, repeats=1)


@dataclass(frozen=True)
class PatchSpeed:
    """Patches a second over `patches` of them, in one order; `ratio` is ours over OpenSlide's, turn by turn."""

    order: str
    workers: int
    patches: int
    openslide_patches_s: Spread
    cinr_patches_s: Spread
    ratio: Spread


@dataclass(frozen=True)
class PatchSlide:
    """The slide.

    Attributes:
        level_downsamples, tile_wh: of the pyramid that OpenSlide reads.
        step: level-0 pixels a pixel of a patch.
        psnr_db: of patches of the `.cinr` file against OpenSlide's.
    """

    name: str
    width: int
    height: int
    bytes_on_disk: int
    cinr_bytes: int
    level_downsamples: tuple[float, ...]
    tile_wh: tuple[int, int]
    step: float
    psnr_db: float


@dataclass(frozen=True)
class PatchesRun(Record):
    """One run. `settings.torch_threads` decode a `.cinr` file where there is no worker."""

    slide: PatchSlide
    settings: dict[str, Any]
    speeds: tuple[PatchSpeed, ...]
    schema: int = 1


@click.command()
@click.option("--slide", type=click.Path(path_type=Path), required=True, help="A slide with a tiled pyramid.")
@click.option("--cinr", type=click.Path(path_type=Path), help="The same, encoded.  [default: it is encoded, fast]")
@click.option(
    "--downsample", type=click.FloatRange(0, min_open=True), help="Of the patches.  [default: 0.5 um a pixel]"
)
@click.option("--quick", is_flag=True, help="Few patches, once each: a minute or two.")
@click.option("--out", type=click.Path(path_type=Path), help="The record.  [default: results/patches[_quick].json]")
def main(slide: Path, cinr: Path | None, downsample: float | None, quick: bool, out: Path | None) -> None:
    """Patches a second for a training loop, of a .cinr file and of OpenSlide."""
    out = out or RESULTS / f"patches{'_quick' if quick else ''}.json"
    command = f"python -m benchmarks.patches --slide {slide.name}{f' --cinr {cinr.name}' if cinr else ''}"
    command += f"{f' --downsample {downsample:g}' if downsample else ''}{' --quick' if quick else ''}"
    try:
        with ExitStack() as stack:
            report = stack.enter_context(progress_view(quiet=False))
            if cinr is None:
                cinr = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "slide.cinr"
                _encode(slide, cinr, report)
            plan = Plan(slide, cinr, _scale(slide, downsample))
            found = measure(plan.quick() if quick else plan, command, report)
        found = results.save(found, out)
    except InrwsiError as error:
        click.echo(f"patches: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    click.echo("\n".join(table(found)))
    click.echo(str(out))


def measure(plan: Plan, command: str, report: Report) -> PatchesRun:
    """Everything, OpenSlide and the `.cinr` file by turns."""
    _check_pyramid(plan.slide)
    corners = choose(plan)
    speeds: list[PatchSpeed] = []
    runs = len(ORDERS) * len(plan.workers) * plan.repeats
    for order in ORDERS:
        for workers in plan.workers:
            turns: list[dict[str, float]] = []
            for _ in range(plan.repeats):
                report(
                    Progress(
                        "patches", len(speeds) * plan.repeats + len(turns), runs, "turns", f"{order}, {workers} workers"
                    )
                )
                turns.append({reader: patches_a_second(plan, reader, corners[order], workers) for reader in READERS})
            counted = len(corners[order]) - UNCOUNTED * max(1, workers) * plan.batch
            speeds.append(_speed(order, workers, counted, turns))
    report(Progress("patches", runs, runs, "turns"))
    return PatchesRun(
        **head(command, library_versions() | {"openslide": openslide.__library_version__}),
        slide=_facts(plan, corners["random"][: plan.batch]),
        settings=_settings(plan),
        speeds=tuple(speeds),
    )


def choose(plan: Plan) -> dict[str, np.ndarray]:
    """Corners of the patches in each order, (n, 2) in level-0 pixels: tissue of the slide, whichever file is read.

    In grid order they are neighbours, from the middle of the slide's; in random order they are from all of it.
    """
    every = dataset(plan, "openslide", None, min_tissue=plan.min_tissue).l0_xy
    uncounted = UNCOUNTED * max(1, *plan.workers) * plan.batch
    count = min(uncounted + plan.patches, len(every) // plan.batch * plan.batch)
    if count <= uncounted:
        raise UsageError(f"{plan.slide}: has {len(every)} patches of tissue, too few to time; give a larger slide")
    first = (len(every) - count) // 2
    random = np.random.default_rng(plan.seed).permutation(len(every))[:count]
    return {"grid": every[first : first + count], "random": every[random]}


def dataset(plan: Plan, reader: str, l0_xy: np.ndarray | None, *, min_tissue: float = 0.0) -> PatchDataset:
    """Patches of the one file or the other."""
    path = plan.slide if reader == "openslide" else plan.cinr
    return PatchDataset(
        path, plan.patch_px, l0_xy=l0_xy, min_tissue=min_tissue, device="cpu", **cast(dict[str, Any], plan.scale)
    )


def patches_a_second(plan: Plan, reader: str, l0_xy: np.ndarray, workers: int) -> float:
    """Of a data set that has read nothing yet, from the end of the first batches to the end of the last."""
    loader = DataLoader(dataset(plan, reader, l0_xy), batch_size=plan.batch, num_workers=workers)
    uncounted = UNCOUNTED * max(1, workers)
    began, counted = 0.0, 0
    for number, batch in enumerate(loader):
        if number >= uncounted:
            counted += len(batch["image"])
        if number == uncounted - 1:
            began = time.perf_counter()
    return counted / (time.perf_counter() - began)


def table(found: PatchesRun) -> list[str]:
    """The run for a person."""
    slide = found.slide
    lines = [
        f"{slide.name}: {slide.width:,} x {slide.height:,} px, {slide.bytes_on_disk / 1e6:.1f} MB, as .cinr "
        f"{slide.cinr_bytes / 1e6:.1f} MB, {slide.psnr_db:.1f} dB; patches of {found.settings['patch_px']} px at "
        f"{slide.step:.4g} level-0 px a px",
        f"{'order':8}{'workers':>8}{'OpenSlide':>12}{'.cinr':>10}  patches/s{'ratio':>10}",
    ]
    for s in found.speeds:
        ours, theirs = s.cinr_patches_s.median, s.openslide_patches_s.median
        lines.append(f"{s.order:8}{s.workers:8}{theirs:12.1f}{ours:10.1f}{s.ratio.median:20.3g} x")
    return lines


def _speed(order: str, workers: int, patches: int, turns: Sequence[dict[str, float]]) -> PatchSpeed:
    theirs, ours = ([turn[reader] for turn in turns] for reader in READERS)
    ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
    return PatchSpeed(order, workers, patches, spread(theirs), spread(ours), spread(ratios))


def _facts(plan: Plan, l0_xy: np.ndarray) -> PatchSlide:
    error = SquaredError()
    theirs, ours = (dataset(plan, reader, l0_xy) for reader in READERS)
    for a, b in zip(theirs.__getitems__(range(len(theirs))), ours.__getitems__(range(len(ours))), strict=True):
        error.add(a["image"].numpy(), b["image"].numpy())
    with openslide.OpenSlide(plan.slide) as slide:
        facts = slide.properties
        return PatchSlide(
            name=plan.slide.name,
            width=slide.dimensions[0],
            height=slide.dimensions[1],
            bytes_on_disk=os.stat(plan.slide).st_size,
            cinr_bytes=os.stat(plan.cinr).st_size,
            level_downsamples=slide.level_downsamples,
            tile_wh=(int(facts["openslide.level[0].tile-width"]), int(facts["openslide.level[0].tile-height"])),
            step=theirs.steps[0],
            psnr_db=min(error.psnr_db, 100.0),
        )


def _settings(plan: Plan) -> dict[str, Any]:
    names = ("patch_px", "batch", "repeats", "min_tissue", "seed")
    return {
        **{name: getattr(plan, name) for name in names},
        **plan.scale,
        "torch_threads": torch.get_num_threads(),
        "uncounted_batches_a_worker": UNCOUNTED,
    }


def _check_pyramid(path: Path) -> None:
    """Reading one that OpenSlide decodes whole, or that has one level, is nobody's way of training."""
    try:
        with openslide.OpenSlide(path) as slide:
            tiled = "openslide.level[0].tile-width" in slide.properties
            if slide.level_count > 1 and tiled:
                return
    except (OSError, openslide.OpenSlideError) as error:
        raise UsageError(f"{path}: OpenSlide cannot open it ({error or 'no such file'}); give a slide") from None
    raise UsageError(f"{path}: has no tiled pyramid, which OpenSlide is to be timed on; give a slide that has one")


def _scale(path: Path, downsample: float | None) -> dict[str, float]:
    if downsample is not None:
        return {"downsample": downsample}
    with open_source(path) as source:
        return {"downsample": DOWNSAMPLE} if source.mpp_um is None else {"mpp": MPP_UM}


def _encode(path: Path, out: Path, report: Report) -> None:
    with open_source(path) as source:
        encode(source, out, EncodeOptions(effort="fast"), progress=report)


if __name__ == "__main__":
    main()
