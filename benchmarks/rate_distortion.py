"""The README's rates: `python -m benchmarks.rate_distortion [--quick | --models]`, into results/rate_distortion.json.

A stratified sample of the complete duodenum slide with every codec, layout and model; and a megapixel each of five
other slides, by the codecs in tiles and by the default model as it comes, for the mean over stains and scanners. Model
`cinr` keeps a network in the file, which a megapixel cannot pay: it is measured on the complete slide alone, and
not in the quick set, for its time. The pixels are at half resolution, which an earlier JPEG has hardly marked. Cut
short, the same command goes on.

`--models` is all models of this project beside the codecs, on one crop of the complete slide, into results/models.json:
what each costs in bits and in seconds of the CPU at the quality that it reaches. The models are fitted for a share of
their own passes, for the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from inrwsi.benchmarks.codecs import FILE, TILED, WHOLE, Codec
from inrwsi.benchmarks.codecs_ours import OurCodec, other_codecs, our_codecs
from inrwsi.benchmarks.fixed import CROPS, PARTIAL, SEED, find_complete, finish, opened, options
from inrwsi.benchmarks.hybrid import busiest_crop
from inrwsi.benchmarks.pilot import choose_picture
from inrwsi.benchmarks.plan import Plan
from inrwsi.benchmarks.results import Run, RunSet, mean_bd
from inrwsi.benchmarks.run import Bench, run_all
from inrwsi.benchmarks.sampling import Picture, find_cells, full_picture
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.geometry import Rect
from inrwsi.options import known_models
from inrwsi.progress import Report

BPP = (1.0, 2.0, 4.0)
PASSES = 4
MOST_REGIONS = 24
CROP_REGIONS = 4
QUICK_CROPS = 1
MODELS = "models"
MODELS_BPP = (1.0, 4.0)
MODELS_PEERS = ("jpeg-420", "jpeg2000", "jpegxl", "avif", "webp")
SHARE, SHARES = 3, {"engp": 6}  # of a model's own passes one in so many: the largest network is the slowest by far


@click.command()
@options
@click.option("--models", is_flag=True, help="All models of this project and five codecs, on one crop; half an hour.")
def main(slides: Path, complete: Path | None, quick: bool, models: bool) -> None:
    """Rate against quality of every codec on the fixed slides."""
    if models:
        if quick:
            raise click.UsageError("--quick and --models are given; give one of them")
        finish(MODELS, False, lambda report: _all_models(find_complete(slides, complete), report))
        return
    command = f"python -m benchmarks.rate_distortion{' --quick' if quick else ''}"
    folder = PARTIAL / f"rate_distortion{'_quick' if quick else ''}"

    def make(report: Report) -> RunSet:
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


def _all_models(path: Path | None, report: Report) -> RunSet | None:
    if path is None:
        return None
    command = "python -m benchmarks.rate_distortion --models"
    pixels, l0_xy = busiest_crop(path)
    with open_source(path) as source:
        mpp_um, power = source.mpp_um, source.objective_power
    with open_source(pixels, mpp_um=mpp_um, objective_power=power) as crop:
        picture = crop_picture(crop, path.name, l0_xy)
        codecs = (*other_codecs(MODELS_PEERS), *fitted_by_share(known_models(), MODELS_BPP, report))
        return RunSet(command, (compare(crop, picture, codecs, PARTIAL / MODELS, report, command),))


def crop_picture(crop: SlideSource, name: str, l0_xy: tuple[int, int]) -> Picture:
    """All pixels of a crop, which lay at `l0_xy` in the slide called `name`."""
    picture = full_picture(crop, find_cells(crop))
    text = (
        f"the crop of {crop.width} x {crop.height} pixels at {l0_xy[0]}, {l0_xy[1]}, that with the most contrast among "
        "those of a grid, as if it were the slide"
    )
    sample = replace(picture.sample, text=text, l0_xy=(l0_xy,))
    return replace(picture, slide=replace(picture.slide, name=name), sample=sample)


def fitted_by_share(names: Sequence[str], bpp: Sequence[float], report: Report | None = None) -> tuple[OurCodec, ...]:
    """Models by name, the cheap ones first: `octaves` at its qualities, those that are fitted at `bpp`."""
    ordered = sorted(names, key=lambda name: (name != "octaves", SHARES.get(name, 0)))
    return tuple(
        codec
        for name in ordered
        for codec in our_codecs(
            (name,),
            bpp=() if name == "octaves" else bpp,
            share=SHARES.get(name, SHARE),
            device="cpu",
            progress=report,
        )
    )


def compare(
    source: SlideSource,
    picture: Picture,
    codecs: Sequence[Codec],
    folder: Path,
    report: Report,
    command: str,
) -> Run:
    """One picture through all `codecs`, in layouts with random access; what is done already stays in `folder`."""
    bench = Bench(
        picture,
        Plan(
            tuple(codecs),
            quick=False,
            seed=SEED,
            folder=folder,
            layouts=(TILED, FILE),
            with_source=False,
            with_views=False,
            report=report,
        ),
    )
    _load_libraries(codecs, picture, folder / "first.cinr")
    return run_all(source, bench, command=command)


def _load_libraries(codecs: Sequence[Codec], picture: Picture, path: Path) -> None:
    """Code a corner with `octaves`, where it takes part: the first file of a process has to load torch and numba."""
    corner = replace(picture, pixels=picture.pixels[:64, :64].copy())
    for codec in codecs:
        if codec.name == "octaves":
            codec.encode(corner, FILE, codec.ladder[0], path)
            with codec.open(path, FILE) as reader:
                reader.read(Rect(0, 0, *corner.wh))
            path.unlink()


def _complete(
    source: SlideSource,
    ours: tuple[OurCodec, ...],
    quick: bool,
    folder: Path,
    report: Report,
    command: str,
) -> Run:
    picture = choose_picture(source, folder, seed=SEED, most=CROP_REGIONS if quick else MOST_REGIONS)
    layouts = (TILED, FILE) if quick else (TILED, WHOLE, FILE)
    plan = Plan((*other_codecs(), *ours), quick, SEED, folder, layouts=layouts, report=report)
    return run_all(source, Bench(picture, plan), command=command)


if __name__ == "__main__":
    main()
