"""Model `octaves` against its peers: `python -m benchmarks.octaves --set crops|slide`, into results/octaves_*.json.

    python -m benchmarks.octaves --set crops [--effort fast] [--images NAME...] [--quick]
    python -m benchmarks.octaves --set slide --slide slide-20x.tiff --effort default [--tiles N]

Crops: a square of every development image, halved pixels; each codec makes one file of it. Slide: the whole slide; the
peers in tiles of 512 pixels, each with its headers; bits a pixel over its tissue tiles (glass is free: the other tiles,
and chunks that lie over none of these) and over all of it. Every size is that of a file which was decoded again for the
quality beside it. BD-rates are over the peer's qualities at 0.3 to 2 bpp, as far as both curves reach. Times are taken
at the end, in one go.

Points are kept, so that the same command goes on where it was cut short, and the peers' can be made beforehand with
`--peers-only`. An image list or other qualities than the usual ones are for a look: their result is not committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from inrwsi.benchmarks.codecs import WHOLE
from inrwsi.benchmarks.fixed import SEED
from inrwsi.benchmarks.octaves_compare import compare_all, means, value_at, verdicts
from inrwsi.benchmarks.octaves_openjpeg import tiled_peers
from inrwsi.benchmarks.octaves_points import (
    HIGH_BPP,
    LOW_BPP,
    Coder,
    OurCoder,
    Report,
    Store,
    our_curve,
    peer_curve,
    peers,
)
from inrwsi.benchmarks.octaves_results import FilePoint, OctavesRun
from inrwsi.benchmarks.octaves_speed import Tested, busiest_piece, measure
from inrwsi.benchmarks.octaves_subjects import CROP_PX, IMAGES, QUICK_CROP_PX, QUICK_IMAGES, Pixels, crops, slide
from inrwsi.benchmarks.octaves_table import table
from inrwsi.benchmarks.probe import cores, library_versions, machine
from inrwsi.benchmarks.results import save
from inrwsi.cli.progress_view import progress_view
from inrwsi.errors import InrwsiError, UsageError
from inrwsi.options import EFFORTS, TUNES
from inrwsi.progress import Progress

RESULTS = Path(__file__).parent / "results"
PARTIAL = RESULTS / ".partial"
CROPS, SLIDE = "crops", "slide"
# On a slide at 20x 37 to 52 dB, as the peers have at 0.3 to 2 bpp. As close to each other as the peers' are: a curve
# through every second of them asks 1.8 % more bytes at quality 88 than the file there has.
SLIDE_QUALITIES = (36.0, 57.0, 67.0, 78.0, 88.0, 99.0)
SLIDE_20X = "slide-20x.tiff"  # which the values that must be reached are of
TIMED_QUALITY = 60.0
TIMED_IMAGE = "duodenum-NET-HE.png"  # or the first, where it is not among them


@dataclass(frozen=True)
class Asked:
    """What was asked for on the command line."""

    which: str
    slides: Path
    slide: Path | None
    effort: str
    tune: str
    images: tuple[str, ...]
    tiles: int | None
    qualities: tuple[float, ...]
    quick: bool
    peers_only: bool
    no_speed: bool

    @property
    def usual(self) -> bool:
        """Whether the result is the one to commit."""
        timed = self.which == CROPS and self.tune == TUNES[0]  # times are those of the crops' file
        return not (self.images or self.tiles or self.qualities or (self.no_speed and timed))

    @property
    def name(self) -> str:
        """Of the result: a slide's own, where it is another than README's."""
        tuned = f"_{self.tune.replace('-', '_')}" if self.tune != TUNES[0] else ""
        slide = None if self.slide is None or self.slide.name == SLIDE_20X else self.slide.stem.removeprefix("slide-")
        named = f"_{slide}" if slide else ""
        return f"octaves_{self.which}{named}{'_quick' if self.quick else ''}{tuned}"

    @property
    def peers_name(self) -> str:
        """Of the folder of the points, which tunings share."""
        return f"octaves_{self.which}{'_quick' if self.quick else ''}"

    @property
    def out(self) -> Path:
        """Where the result goes."""
        return (RESULTS if self.usual else PARTIAL) / f"{self.name}{'' if self.usual else '_part'}.json"

    @property
    def command(self) -> str:
        """As it may be typed again."""
        parts = ["python -m benchmarks.octaves", f"--set {self.which}", f"--effort {self.effort}"]
        parts += [f"--tune {self.tune}"] if self.tune != TUNES[0] else []
        parts += [f"--slide {self.slide.name}"] if self.slide else []
        parts += [f"--images {name}" for name in self.images]
        parts += [f"--tiles {self.tiles}"] if self.tiles else []
        parts += [f"--quality {q:g}" for q in self.qualities]
        return " ".join((*parts, *["--quick"] * self.quick, *["--no-speed"] * self.no_speed))


@click.command(help=__doc__.partition("\n\n")[0])
@click.option("--set", "which", type=click.Choice([CROPS, SLIDE]), required=True)
@click.option(
    "--slides",
    type=click.Path(path_type=Path),
    default=Path("../shared/slides"),
    show_default=True,
    help="Folder of the development images.",
)
@click.option("--slide", type=click.Path(path_type=Path), help="The slide of --set slide, e.g. slide-20x.tiff.")
@click.option("--effort", type=click.Choice(EFFORTS), help="Of ours. [default: fast for crops, default for the slide]")
@click.option("--tune", type=click.Choice(TUNES), default=TUNES[0], show_default=True, help="Of ours.")
@click.option("--images", multiple=True, metavar="NAME", help="Only this image; may be given again.")
@click.option("--tiles", type=click.IntRange(4), help="So many of the slide's tissue tiles, drawn with a seed.")
@click.option("--quality", "qualities", type=float, multiple=True, help="Of ours, instead of the usual ones.")
@click.option("--quick", is_flag=True, help="Three images, smaller crops, half the settings: under 4 minutes.")
@click.option("--peers-only", is_flag=True, help="Make the peers' points and stop: they do not depend on ours.")
@click.option("--no-speed", is_flag=True, help="Leave the times out.")
@click.argument("more_images", nargs=-1)
def main(more_images: tuple[str, ...], effort: str | None, images: tuple[str, ...], **rest: Any) -> None:
    """Measure and print; errors end in one sentence."""
    chosen = effort or ("fast" if rest["which"] == CROPS else "default")
    # `--images A B C`: what follows the first is taken from the end of the line.
    asked = Asked(effort=chosen, images=(*images, *more_images), **rest)
    try:
        _check(asked)
        with progress_view(quiet=False) as report:
            result = run(asked, report)
    except InrwsiError as error:
        click.echo(f"octaves: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    if result is not None:
        click.echo(table(save(result, asked.out)))
        click.echo(str(asked.out))


def _check(asked: Asked) -> None:
    if asked.which == SLIDE and (asked.slide is None or not asked.slide.exists()):
        raise UsageError(f"--slide {asked.slide}: is not there; give a slide, such as slide-20x.tiff")
    if asked.which == SLIDE and (asked.images or asked.quick):
        raise UsageError("--images and --quick are of --set crops; for a shorter --set slide give --tiles")
    if asked.which == CROPS and (asked.slide is not None or asked.tiles):
        raise UsageError("--slide and --tiles are of --set slide")
    if asked.which == CROPS and not asked.slides.is_dir():
        raise UsageError(f"--slides {asked.slides}: is not there; give the folder of the development images")


def run(asked: Asked, report: Report) -> OctavesRun | None:
    """Everything but the printing. None with --peers-only."""
    store = Store(PARTIAL / asked.peers_name, report)
    pairs = _subjects(asked)
    coders: Sequence[Coder] = peers(WHOLE) if asked.which == CROPS else tiled_peers()
    ours = OurCoder(asked.effort, asked.tune, in_part=asked.tiles is not None, kept=asked.which == SLIDE, report=report)
    every = 2 if asked.quick else 1
    points: list[FilePoint] = []
    timed: tuple[Pixels, list[FilePoint]] | None = None
    qualities = asked.qualities or (SLIDE_QUALITIES if asked.which == SLIDE else ())
    for number, (our_pixels, their_pixels) in enumerate(pairs, 1):
        of_peers = [p for coder in coders for p in peer_curve(store, their_pixels, coder, every=every)]
        report(Progress("peers", number, len(pairs), "subjects", our_pixels.facts.name))
        if asked.peers_only:
            continue
        of_ours = our_curve(store, our_pixels, ours, qualities, every=every)
        points += [*of_peers, *of_ours]
        if timed is None or our_pixels.facts.name == TIMED_IMAGE:
            timed = our_pixels, [*of_peers, *of_ours]
    if asked.peers_only or timed is None:
        return None
    result = _result(asked, ours, points, [p.facts for p, _ in pairs])
    if not asked.no_speed:
        speed = measure(_tested(asked, store, ours, *timed, report=report))
        result = replace(result, speed=speed, verdicts=verdicts(result.means, asked.effort, speed))
    return result


def _subjects(asked: Asked) -> Sequence[tuple[Pixels, Pixels]]:
    """What ours is given and what the peers are, for each subject."""
    if asked.which == SLIDE and asked.slide is not None:
        return [slide(asked.slide, asked.tiles, SEED)]
    names = asked.images or (QUICK_IMAGES if asked.quick else IMAGES)
    return [(p, p) for p in crops(asked.slides, names, QUICK_CROP_PX if asked.quick else CROP_PX)]


def _result(asked: Asked, ours: OurCoder, points: list[FilePoint], subjects: list[Any]) -> OctavesRun:
    from inrwsi.fields.octaves_prior import current_sha256

    compared = compare_all(points, ours.name)
    averaged = means(compared, subjects)
    versions = library_versions()
    for coder in peers(WHOLE):
        versions |= coder.codec.versions()
    notes = ["file sizes and qualities of the peers may be from an earlier run; times are all of this one"]
    if asked.tiles:
        notes.append(
            "a sample of tissue tiles: of ours, the payload of the octave-0 chunks under them is counted, and the rest "
            "of the file in proportion to it"
        )
    return OctavesRun(
        command=asked.command,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions,
        settings={
            "set": asked.which,
            "effort": asked.effort,
            "tune": asked.tune,
            "prior": current_sha256(),
            "peers": {c.name: c.codec.about for c in peers(WHOLE)},
            "peers_layout": "one codestream"
            if asked.which == CROPS
            else ("tiles of 512 px, each with its headers; JPEG 2000's coded to one slope"),
            "range_bpp": [LOW_BPP, HIGH_BPP],
            "threads": cores(),
            "seed": SEED,
            "quick": asked.quick,
        },
        subjects=tuple(subjects),
        points=tuple(points),
        comparisons=compared,
        means=averaged,
        # What is tuned for one metric is held to the bars of that alone.
        verdicts=tuple(
            v
            for v in verdicts(averaged, asked.effort, None)
            if asked.tune == TUNES[0] or f"equal {asked.tune.upper()}," in v.what
        ),
        notes=tuple(notes),
    )


def _tested(
    asked: Asked, store: Store, ours: OurCoder, pixels: Pixels, points: list[FilePoint], *, report: Report
) -> Tested:
    """What the times are taken on: a file of ours at a middle quality, and AVIF at about its PSNR."""
    area = points[0].figures[0].area
    own = [p for p in points if p.codec == ours.name]
    quality = min((p.value for p in own), key=lambda v: abs(v - TIMED_QUALITY))
    at = next(p for p in own if p.value == quality)
    kept = replace(ours, kept=True)
    store.point(pixels, kept, quality)
    avif = [p for p in points if p.codec == "avif"]
    return Tested(
        rgb=pixels.rgb,
        cinr=store.file(pixels, kept, quality),
        piece=busiest_piece(pixels.rgb),
        quality=quality,
        efforts=("fast",) if asked.quick else EFFORTS,
        avif_value=round(value_at(avif, area, at.over(area).psnr_db)),
        folder=store.folder,
        report=report,
    )


if __name__ == "__main__":
    main()
