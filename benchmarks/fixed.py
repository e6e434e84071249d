"""The fixed slides that the README's figures come from, and what their two commands share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from inrwsi.cli.progress_view import progress_view
from inrwsi.errors import InrwsiError
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.progress import Report

from .results import RunSet, save
from .sampling import open_halved

RESULTS = Path(__file__).parent / "results"
PARTIAL = RESULTS / ".partial"
COMPLETE = "slide-20x.tiff"
COMPLETE_HELP = (
    "the complete duodenum slide at 20x: 2x2 means of duodenum-HE-wsi-40x.dzi.zip, as one TIFF (README, Slides used)"
)
SEED = 2024


@dataclass(frozen=True)
class FixedSlide:
    """A slide of the set. `halve`: the file has the scanner's own pixels, marked by JPEG; 2x2 means are measured."""

    file: str
    halve: bool = False


CROPS = (
    FixedSlide("duodenum-NET-HE.png"),
    FixedSlide("liver-HE.png"),
    FixedSlide("kidney-pale-HE.png"),
    FixedSlide("stomach-pylori-IHC.png"),
    FixedSlide("CMU-1-Small-Region.svs", halve=True),
)


@contextmanager
def opened(folder: Path, slide: FixedSlide) -> Iterator[SlideSource]:
    """The slide, at half its resolution where the set says so."""
    with open_source(folder / slide.file) as source:
        if not slide.halve:
            yield source
        else:
            with open_halved(source) as small:
                yield small


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both commands."""
    slides = click.option(
        "--slides",
        type=click.Path(path_type=Path),
        default=Path("../shared/slides"),
        show_default=True,
        help="The folder of the slides.",
    )
    complete = click.option(
        "--complete",
        type=click.Path(path_type=Path),
        help=f"{COMPLETE_HELP[0].upper()}{COMPLETE_HELP[1:]}.  [default: {COMPLETE} in that folder]",
    )
    quick = click.option("--quick", is_flag=True, help="A small set of settings and pixels, under 2 minutes.")
    return slides(complete(quick(command)))


def find_complete(slides: Path, complete: Path | None) -> Path | None:
    """The complete slide, or None and a sentence where it is not."""
    path = complete or slides / COMPLETE
    if path.exists():
        return path
    click.echo(f"{path}: is not there, so the complete slide is left out; it is {COMPLETE_HELP}", err=True)
    return None


def finish(name: str, quick: bool, make: Callable[[Report], RunSet | None]) -> None:
    """Run `make`, write its result under `name`, and let go of the partial ones; errors end in one sentence."""
    path = RESULTS / f"{name}{'_quick' if quick else ''}.json"
    try:
        with progress_view(quiet=False) as report:
            result = make(report)
    except InrwsiError as error:
        click.echo(f"{name}: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    if result is None or not result.runs:
        click.echo(f"{name}: none of the slides is there, so nothing is measured; give --slides", err=True)
        raise SystemExit(2)
    save(result, path)
    shutil.rmtree(PARTIAL / path.stem, ignore_errors=True)
    click.echo(str(path))
