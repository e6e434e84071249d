"""Seams between chunks: `python -m benchmarks.seams`, into results/seams.json and docs/seam.png.

Squared error within two pixels of chunk borders, on crops of the development images: over that of the rest of the crop,
its own borders included; and, since what lies there may be harder or easier than the rest, over that of the very same
pixels where the crop, and with it every chunk, begins half a chunk later. And a picture of where four chunks meet, at
400 %, of a generated slide.
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
SIDE_PX, NEAR_PX, MOVED_PX = 1024, 2, CHUNK_PX // 2
MOST_EXCESS = 0.02
ZOOM, SHOWN_PX, MARGIN_PX = 4, 128, 24


@dataclass(frozen=True)
class Seam:
    """`ratio`: mean squared error near chunk borders over that of the rest, of one crop; `same_pixels`: over that of
    the same pixels far from borders."""

    image: str
    quality: float
    psnr_db: float
    ratio: float
    same_pixels: float


@dataclass(frozen=True)
class SeamsRun(Record):
    """All of it; the two means are of `seams`, and are to be at most 1 + MOST_EXCESS."""

    chunk_px: int
    near_px: int
    crop_px: int
    seams: tuple[Seam, ...]
    mean_ratio: float
    mean_same_pixels: float
    worst: str
    within: bool
    schema: int = 2


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


def same_pixels(error: np.ndarray, moved: np.ndarray) -> float:
    """Error near borders over that of the same pixels away from them.

    Args:
        error: (side, side) squared error of a crop; the side is whole chunks.
        moved: the same of the crop that begins MOVED_PX to the right and below. What both have is looked at, each one's
            borders in the other.
    """
    first, last = MOVED_PX + NEAR_PX, len(error) - NEAR_PX  # the edges of the crops themselves have no other side
    there, back = slice(first, last), slice(first - MOVED_PX, last - MOVED_PX)
    near = near_borders(len(error))
    (one, at_one), (other, at_other) = ((of[at, at], near[at, at]) for of, at in ((error, there), (moved, back)))
    alone, other_alone = at_one & ~at_other, at_other & ~at_one
    at_borders = one[alone].sum() + other[other_alone].sum()
    return float(at_borders / (other[alone].sum() + one[other_alone].sum()))


def seam(image: str, rgb: np.ndarray, quality: float) -> Seam:
    """Measure one picture, (SIDE_PX + MOVED_PX, SIDE_PX + MOVED_PX, 3) uint8."""
    parts = rgb[:SIDE_PX, :SIDE_PX], rgb[MOVED_PX:, MOVED_PX:]
    error, moved = (((p.astype(np.float64) - coded(p, quality)) ** 2).mean(2) for p in parts)
    near = near_borders(SIDE_PX)
    psnr_db = float(10 * np.log10(255**2 / error.mean()))
    ratio = float(error[near].mean() / error[~near].mean())
    return Seam(image, quality, psnr_db, ratio, same_pixels(error, moved))


def measure(slides: Path, images: Sequence[str] = IMAGES) -> list[Seam]:
    """Every image at every quality."""
    found = []
    for image in images:
        with open_source(slides / image) as source:
            side_px = SIDE_PX + MOVED_PX
            rgb = np.ascontiguousarray(source.read((0, 0), (side_px, side_px))[..., :3])
        for quality in QUALITIES:
            found.append(seam(image, rgb, quality))
            one = found[-1]
            means = f"near borders {one.ratio:.3f}, against the same pixels {one.same_pixels:.3f}"
            click.echo(f"{image}, quality {quality:g}: {one.psnr_db:.2f} dB, {means}")
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
    means = [float(np.mean(values)) for values in ([s.ratio for s in seams], [s.same_pixels for s in seams])]
    worst = max(seams, key=lambda s: s.ratio)
    run = SeamsRun(
        **head("python -m benchmarks.seams", library_versions()),
        chunk_px=CHUNK_PX,
        near_px=NEAR_PX,
        crop_px=SIDE_PX,
        seams=tuple(seams),
        mean_ratio=means[0],
        mean_same_pixels=means[1],
        worst=f"{worst.image}, quality {worst.quality:g}",
        within=max(means) <= 1 + MOST_EXCESS,
    )
    run = results.save(run, out)
    click.echo(
        f"mean {run.mean_ratio:.3f}, against the same pixels {run.mean_same_pixels:.3f}; "
        f"worst {worst.ratio:.3f}, {run.worst}"
    )


if __name__ == "__main__":
    main()
