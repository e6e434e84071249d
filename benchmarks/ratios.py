"""Ratios asked for and got, of every fitted model: `python -m benchmarks.ratios`, into results/ratios.json.

The middle of a slide, by one pass over its pixels: what is looked at is sizes, of files as the disk has them, and not
how good a longer fit would be. A model that cannot be so small says so, and that is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import Unreachable, UsageError
from inrwsi.fields.models import model_names
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions

from . import results
from .probe import library_versions
from .record import head
from .results import Record

RESULTS = Path(__file__).parent / "results"
RATIOS = (64.0, 256.0, 512.0)
SIDE_PX = 1024


@dataclass(frozen=True)
class Ratio:
    """A file of the crop, or why there is none.

    Attributes:
        asked, got: bytes of the pixels, three each, over those of the file.
        tile_px: side of its tiles.
        psnr_db: of what the file decodes to.
        refused: what was said; the others are 0 then.
    """

    model: str
    asked: float
    got: float = 0.0
    file_bytes: int = 0
    tile_px: int = 0
    psnr_db: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class RatiosRun(Record):
    """All of it."""

    slide: str
    side_px: int
    passes: int
    rows: tuple[Ratio, ...]
    schema: int = 1


def middle(slide: Path, side_px: int) -> np.ndarray:
    """(side_px, side_px, 3) uint8 of the slide's middle."""
    with open_source(slide) as source:
        at = ((source.width - side_px) // 2, (source.height - side_px) // 2)
        return np.ascontiguousarray(source.read(at, (side_px, side_px))[..., :3])


def measure(rgb: np.ndarray, model: str, asked: float, passes: int) -> Ratio:
    """Encode (h, w, 3) uint8 and decode the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "crop.cinr"
        with open_source(rgb) as source:
            try:
                report = encode(source, path, EncodeOptions(model, ratio=asked, passes=passes, device="cpu"))
            except Unreachable as error:
                return Ratio(model, asked, refused=str(error))
        with Decoder(path, device="cpu") as decoder:
            decoded = decoder.read_region((0, 0), (rgb.shape[1], rgb.shape[0]))
            tile_px = decoder.header.grid.chunk_px
        file_bytes = path.stat().st_size
    if file_bytes != report.cinr_bytes:
        raise RuntimeError(f"{model}: the file has {file_bytes} bytes, and the report {report.cinr_bytes}")
    return Ratio(model, asked, rgb.nbytes / file_bytes, file_bytes, tile_px, psnr(rgb, decoded))


def all_rows(path: Path, make: Callable[[str, float], Ratio]) -> list[Ratio]:
    """Every model at every ratio; `path` holds those that an interrupted run made, and each as it is there."""
    rows = list(results.load(Partial, path).rows) if path.exists() else []
    done = {(row.model, row.asked) for row in rows}
    for model in model_names():
        for asked in RATIOS:
            if (model, asked) not in done:
                rows.append(make(model, asked))
                results.save(Partial(tuple(rows)), path)
                row = rows[-1]
                click.echo(f"{model}, {asked:g}: " + (row.refused or f"{row.got:.1f}, {row.file_bytes:,} bytes"))
    return rows


@dataclass(frozen=True)
class Partial:
    """Rows of a run that is under way."""

    rows: tuple[Ratio, ...]


@click.command()
@click.option(
    "--slide", type=click.Path(path_type=Path), default=Path("../shared/slides/stomach-giemsa.png"), show_default=True
)
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="Over the pixels.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "ratios.json", show_default=True)
def main(slide: Path, passes: int, out: Path) -> None:
    """Ratios that were asked for, and those of the files."""
    if not slide.exists():
        raise UsageError(f"--slide {slide}: is not there; give one of the development images")
    rgb, partial = middle(slide, SIDE_PX), out.with_suffix(".partial")
    rows = all_rows(partial, lambda model, asked: measure(rgb, model, asked, passes))
    rows.sort(key=lambda row: (model_names().index(row.model), row.asked))
    command = f"python -m benchmarks.ratios --slide {slide.name} --passes {passes}"
    run = RatiosRun(
        **head(command, library_versions()), slide=slide.name, side_px=SIDE_PX, passes=passes, rows=tuple(rows)
    )
    results.save(run, out)
    partial.unlink()


if __name__ == "__main__":
    main()
