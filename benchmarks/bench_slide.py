"""What `inrwsi bench` does: choose the pixels, run everything, write the report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.progress import Report

from . import report
from .codecs import area_mean
from .codecs_ours import QUICK_SHARE, other_codecs, our_codecs
from .fidelity_task import load_task
from .pilot import choose_picture
from .plan import Plan
from .report_curves import equal_bits
from .report_pictures import ByteMap, Decoded, Pictures, byte_map, crop
from .results import Run
from .run import Bench, run_all
from .sampling import check_source

OVERVIEW_PX = 1024


@dataclass(frozen=True)
class Request:
    """What was asked for; names as of the command's options. `most_regions`: so many, and no pilot."""

    slide: Path
    out: Path
    quick: bool
    full: bool
    codecs: tuple[str, ...]
    models: tuple[str, ...]
    bpp: tuple[float, ...]
    passes: int | None
    most_regions: int | None
    task: Path | None
    seed: int
    device: str
    overwrite: bool
    command: str


@dataclass(frozen=True)
class Outcome:
    """The result, the page that shows it, and a table of it for the terminal."""

    run: Run
    page: Path
    table: Table


def bench_slide(request: Request, progress: Report) -> Outcome:
    """Measure a slide and write its report; partial results lie in the output folder until it is whole.

    Raises:
        UsageError: the slide, a name of a codec or model, or the output cannot be used.
        BrokenCodec: a codec gave something that is not the picture.
    """
    for name in (report.PAGE, report.DATA):
        if (request.out / name).exists() and not request.overwrite:
            raise UsageError(f"{request.out / name}: is there already; give --overwrite, or another folder with --out")
    others = other_codecs(request.codecs)
    ours = our_codecs(
        request.models,
        bpp=request.bpp,
        passes=request.passes,
        share=QUICK_SHARE if request.quick else 1,
        device=request.device,
        progress=progress,
    )
    task = load_task(request.task) if request.task else None
    folder = request.out / ".partial"
    with open_source(request.slide) as source:
        check_source(source)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{request.out}: cannot be made ({error.strerror}); choose another folder") from None
        picture = choose_picture(source, folder, seed=request.seed, full=request.full, most=request.most_regions)
        plan = Plan((*others, *ours), request.quick, request.seed, folder, task=task, report=progress)
        bench = Bench(picture, plan)
        run = run_all(source, bench, command=request.command)
    page = report.write(run, pictures(bench, run), request.out)
    shutil.rmtree(folder)
    return Outcome(run, page, report.terminal_table(run))


def pictures(bench: Bench, run: Run) -> Pictures:
    """What the report shows: a crop at nearly equal bits in every codec, and where a file of ours spent its bytes."""
    shown = bench.shown()
    original = bench.picture.pixels[shown.y : shown.y + shown.h, shown.x : shown.x + shown.w]
    decoded = []
    for point in equal_bits(run):
        pixels = bench.shown_pixels(point)
        if pixels is not None:
            psnr = point.metrics.get("psnr_rgb")
            decoded.append(Decoded(point.codec, point.layout, point.setting, point.bpp, psnr, pixels))
    crops = (crop("the region of most contrast", original, decoded),) if decoded else ()
    return Pictures(crops, _byte_map(bench, run))


def _byte_map(bench: Bench, run: Run) -> ByteMap | None:
    """Of the first kept file of ours among those at nearly equal bits."""
    for point in equal_bits(run):
        path = bench.kept_file(point)
        if path is not None:
            by = -(-max(bench.picture.wh) // OVERVIEW_PX)
            with Container.open(path) as container:
                return byte_map(container, area_mean(bench.picture.pixels, by))
    return None
