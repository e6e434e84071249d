"""Seams between chunks: `python -m benchmarks.seams`, into results/seams.json and docs/seam.png.

Squared error within two pixels of chunk borders over that of the rest, on crops of the development images whose sides
are whole chunks, borders of the crop itself included; and a picture of where four chunks meet, at 400 %, of a generated
slide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import CHUNK_PX
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions
from inrwsi.sample import sample_region

from . import results
from .probe import library_versions
from .record import head
from .results import Record

ROOT = Path(__file__).parent.parent
IMAGES = (
    *("duodenum-NET-HE.png", "liver-HE.png", "stomach-giemsa.png", "kidney-oncocytoma-HE.png"),
    *("lymph-node-anthracosis-HE.png", "kidney-pale-HE.png", "stomach-pylori-IHC.png"),
)
QUALITIES = (40.0, 60.0, 80.0)
SIDE_PX, NEAR_PX = 1024, 2
MOST_EXCESS = 0.02
ZOOM, SHOWN_PX, MARGIN_PX = 4, 128, 24


@dataclass(frozen=True)
class Seam:
    """`ratio`: mean squared error near chunk borders over that of the rest, of one crop."""

    image: str
    quality: float
    psnr_db: float
    ratio: float


@dataclass(frozen=True)
class SeamsRun(Record):
    """All of it; `mean_ratio` is of `seams`, and is to be at most 1 + MOST_EXCESS."""

    chunk_px: int
    near_px: int
    crop_px: int
    seams: tuple[Seam, ...]
    mean_ratio: float
    worst: str
    within: bool
    schema: int = 1


def coded(rgb: np.ndarray, quality: float) -> np.ndarray:
    """(h, w, 3) uint8 through a file of effort `fast`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crop.cinr"
        with open_source(rgb, mpp_um=0.5) as source:
            encode(source, path, EncodeOptions(quality=quality, effort="fast"))
        with Decoder(path) as decoder:
            return decoder.read_region((0, 0), (rgb.shape[1], rgb.shape[0]))


def near_borders(side_px: int) -> np.ndarray:
    """(side, side) bool: within NEAR_PX pixels of a chunk's border."""
    at = np.arange(side_px) % CHUNK_PX
    near = (at < NEAR_PX) | (at >= CHUNK_PX - NEAR_PX)
    return near[:, None] | near[None]


def seam(image: str, rgb: np.ndarray, quality: float) -> Seam:
    """Measure one crop, (side, side, 3) uint8."""
    error = ((rgb.astype(np.float64) - coded(rgb, quality)) ** 2).mean(2)
    near = near_borders(len(rgb))
    psnr_db = float(10 * np.log10(255**2 / error.mean()))
    return Seam(image, quality, psnr_db, float(error[near].mean() / error[~near].mean()))


def measure(slides: Path, images: Sequence[str] = IMAGES) -> list[Seam]:
    """Every image at every quality."""
    found = []
    for image in images:
        with open_source(slides / image) as source:
            rgb = np.ascontiguousarray(source.read((0, 0), (SIDE_PX, SIDE_PX))[..., :3])
        for quality in QUALITIES:
            found.append(seam(image, rgb, quality))
            click.echo(f"{image}, quality {quality:g}: {found[-1].psnr_db:.2f} dB, near borders {found[-1].ratio:.3f}")
    return found


def picture(out: Path, quality: float = 40.0) -> None:
    """Where four chunks meet, original and decoded, each pixel as 4 x 4; marks outside show where the borders are."""
    rgb = sample_region((1000, 900), (2 * CHUNK_PX, 2 * CHUNK_PX), size_wh=(4096, 4096), seed=3)
    pair = (rgb, coded(rgb, quality))
    side, begin = SHOWN_PX * ZOOM, CHUNK_PX - SHOWN_PX // 2
    sheet = Image.new("RGB", (2 * side + 3 * MARGIN_PX, side + 2 * MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for n, pixels in enumerate(pair):
        part = Image.fromarray(pixels[begin : begin + SHOWN_PX, begin : begin + SHOWN_PX])
        left, middle = MARGIN_PX + n * (side + MARGIN_PX), side // 2
        sheet.paste(part.resize((side, side), Image.Resampling.NEAREST), (left, MARGIN_PX))
        for y in (6, MARGIN_PX + side + 2):
            draw.line((left + middle, y, left + middle, y + MARGIN_PX - 8), fill="black", width=2)
        for x in (left - MARGIN_PX + 4, left + side + 2):
            draw.line((x, MARGIN_PX + middle, x + MARGIN_PX // 2 - 4, MARGIN_PX + middle), fill="black", width=2)
    sheet.quantize(128).save(out)


@click.command()
@click.option("--slides", type=click.Path(path_type=Path), default=Path("../shared/slides"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "benchmarks/results/seams.json")
@click.option("--picture", "shot", type=click.Path(path_type=Path), default=ROOT / "docs/seam.png")
def main(slides: Path, out: Path, shot: Path) -> None:
    """Squared error at chunk borders over that of the rest."""
    if not slides.is_dir():
        raise UsageError(f"--slides {slides}: is not there; give the folder of the development images")
    picture(shot)
    seams = measure(slides)
    mean = float(np.mean([s.ratio for s in seams]))
    worst = max(seams, key=lambda s: s.ratio)
    run = SeamsRun(
        **head("python -m benchmarks.seams", library_versions()),
        chunk_px=CHUNK_PX,
        near_px=NEAR_PX,
        crop_px=SIDE_PX,
        seams=tuple(seams),
        mean_ratio=mean,
        worst=f"{worst.image}, quality {worst.quality:g}",
        within=mean <= 1 + MOST_EXCESS,
    )
    results.save(run, out)
    click.echo(f"mean {mean:.3f}; worst {worst.ratio:.3f}, {run.worst}")


if __name__ == "__main__":
    main()
