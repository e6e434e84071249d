"""The README's rates: `python -m benchmarks.rate_distortion [--quick]`, into results/rate_distortion.json.

A stratified sample of the complete duodenum slide with every codec, layout and model; and a megapixel each of five
other slides, by the codecs in tiles and by the default model as it comes, for the mean over stains and scanners. Model
`cinr` keeps a network in the file, which a megapixel cannot pay: it is measured on the complete slide alone, and
not in the quick set, for its time. The pixels are at half resolution, which an earlier JPEG has hardly marked. Cut
short, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from inrwsi.benchmarks.codecs import FILE, TILED, WHOLE
from inrwsi.benchmarks.codecs_ours import OurCodec, other_codecs, our_codecs
from inrwsi.benchmarks.fixed import CROPS, PARTIAL, SEED, find_complete, finish, opened, options
from inrwsi.benchmarks.pilot import choose_picture
from inrwsi.benchmarks.results import Run, RunSet, mean_bd
from inrwsi.benchmarks.run import Bench, Plan, run_all
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.progress import Progress

BPP = (1.0, 2.0, 4.0)
PASSES = 4
MOST_REGIONS = 24
CROP_REGIONS = 4
QUICK_CROPS = 1


@click.command()
@options
def main(slides: Path, complete: Path | None, quick: bool) -> None:
    """Rate against quality of every codec on the fixed slides."""
    command = f"python -m benchmarks.rate_distortion{' --quick' if quick else ''}"
    folder = PARTIAL / f"rate_distortion{'_quick' if quick else ''}"

    def make(report: Callable[[Progress], None]) -> RunSet:
        ours = our_codecs(("octaves",), passes=PASSES, device="cpu", progress=report)
        if not quick:
            ours += our_codecs(("cinr",), bpp=BPP, passes=PASSES, device="cpu", progress=report)
        runs = []
        path = find_complete(slides, complete)
        if path is not None:
            with open_source(path) as source:
                runs.append(_complete(source, ours, quick, folder, report, command))
        for slide in CROPS[: QUICK_CROPS if quick else None]:
            if (slides / slide.file).exists():
                with opened(slides, slide) as source:
                    picture = choose_picture(source, folder, seed=SEED, most=CROP_REGIONS, was_halved=slide.halve)
                    codecs = (*(c for c in other_codecs() if TILED in c.layouts), *ours[:1])
                    plan = Plan(codecs, quick, SEED, folder, layouts=(TILED, FILE), report=report)
                    runs.append(run_all(source, Bench(picture, plan), command=command))
        return RunSet(command, tuple(runs), mean_bd(tuple(runs)))

    finish("rate_distortion", quick, make)


def _complete(
    source: SlideSource,
    ours: tuple[OurCodec, ...],
    quick: bool,
    folder: Path,
    report: Callable[[Progress], None],
    command: str,
) -> Run:
    picture = choose_picture(source, folder, seed=SEED, most=CROP_REGIONS if quick else MOST_REGIONS)
    layouts = (TILED, FILE) if quick else (TILED, WHOLE, FILE)
    plan = Plan((*other_codecs(), *ours), quick, SEED, folder, layouts=layouts, report=report)
    return run_all(source, Bench(picture, plan), command=command)


if __name__ == "__main__":
    main()
