"""A field alone, a codec alone, and the field over the codec's picture: PSNR at equal bytes.

    python -m benchmarks.hybrid [--slide PATH] [--model siren] [--bpp 1 --bpp 2] [--share 0.7] [--out DIR]

One crop of 512 x 512 pixels with the most contrast among those of a grid, one run of each. The codec alone codes the
same tiles one by one, as the field over it has them, so that any tile can be had alone; of the hybrid it has the given
share of the bytes. The JSON goes to DIR/hybrid.json; sizes are those of files, or of all tiles of the codec.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import imagecodecs
import numpy as np
import torch

import inrwsi
from inrwsi.coding import base_layer
from inrwsi.config import to_dict
from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.fields.models import config_class
from inrwsi.formats.source import open_source
from inrwsi.job import write_whole
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions

from .probe import machine

CROP_PX, GRID = 512, 8
HALVINGS = 12


@click.command()
@click.option(
    "--slide", type=click.Path(path_type=Path), default=Path("../shared/slides/liver-HE.png"), show_default=True
)
@click.option("--model", default="siren", show_default=True, help="A fitted model.")
@click.option("--bpp", type=float, multiple=True, default=(1.0, 2.0), show_default=True, help="Bits a pixel in all.")
@click.option("--share", type=float, default=0.7, show_default=True, help="Of the bytes, for the codec's picture.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True, help="Folder."
)
def main(slide: Path, model: str, bpp: tuple[float, ...], share: float, out: Path) -> None:
    """Measure them side by side and print a table."""
    pixels, at = busiest_crop(slide)
    tile_px = config_class(model).tile_px
    rows = []
    for value in bpp:
        size_bytes = round(value * CROP_PX**2 / 8)
        rows.append(fitted(pixels, model, size_bytes))
        for kind in base_layer.KINDS:
            quality = quality_of(kind, pixels, tile_px, size_bytes)
            rows.append({"what": kind, "bpp": value, **coded(kind, pixels, tile_px, quality)})
            quality = quality_of(kind, pixels, tile_px, share * size_bytes)
            under = coded(kind, pixels, tile_px, quality)
            rows.append({**fitted(pixels, model, size_bytes, kind, quality), "base_psnr_db": under["psnr_db"]})
    for row in rows:
        row["bpp"] = round(8 * row["bytes"] / CROP_PX**2, 3)
        click.echo(f"{row['what']:20} {row['bpp']:6.3f} bpp {row['psnr_db']:6.2f} dB {row['seconds']:7.1f} s")
    record = {
        "command": f"python -m benchmarks.hybrid --slide {slide.name} --model {model} --share {share:g}"
        + "".join(f" --bpp {value:g}" for value in bpp),
        "slide": slide.name,
        "pixels": f"{CROP_PX} x {CROP_PX} px at {at[0]}, {at[1]}, in tiles of {tile_px}",
        "machine": to_dict(machine()),
        "versions": {
            "inrwsi": inrwsi.__version__,
            "torch": torch.__version__,
            "imagecodecs": imagecodecs.__version__,
            **{name: number for kind in base_layer.KINDS for name, number in base_layer.software(kind).items()},
        },
        "rows": rows,
    }
    write_whole(out / "hybrid.json", json.dumps(record, indent=1).encode() + b"\n")


def busiest_crop(slide: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """The crop with the most contrast of a grid over the slide, (512, 512, 3) uint8, and where it is."""
    with open_source(slide) as source:
        xs, ys = (np.linspace(0, side - CROP_PX, GRID).astype(int).tolist() for side in (source.width, source.height))
        crops = {(x, y): source.read((x, y), (CROP_PX, CROP_PX)) for y in ys for x in xs}
        at = max(crops, key=lambda xy: float(crops[xy].std()))
        return crops[at].copy(), at


def tiles_of(pixels: np.ndarray, tile_px: int) -> list[np.ndarray]:
    starts = range(0, CROP_PX, tile_px)
    return [pixels[y : y + tile_px, x : x + tile_px] for y in starts for x in starts]


def coded(kind: str, pixels: np.ndarray, tile_px: int, quality: float) -> dict[str, Any]:
    """The codec alone: bytes of all tiles, PSNR over the crop, seconds to code."""
    began = time.perf_counter()
    tiles = tiles_of(pixels, tile_px)
    datas = [base_layer.encode(kind, tile, quality) for tile in tiles]
    seconds = time.perf_counter() - began
    decoded = [base_layer.decode(kind, data, tile.shape) for data, tile in zip(datas, tiles, strict=True)]
    return {
        "bytes": sum(map(len, datas)),
        "psnr_db": round(float(psnr(np.concatenate(tiles), np.concatenate(decoded))), 3),
        "seconds": round(seconds, 2),
        "quality": quality,
    }


def quality_of(kind: str, pixels: np.ndarray, tile_px: int, size_bytes: float) -> float:
    """The highest quality that takes no more bytes."""
    low, high = 1.0, 100.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = coded(kind, pixels, tile_px, middle)["bytes"] <= size_bytes
        low, high = (middle, high) if fits else (low, middle)
    return low


def fitted(
    pixels: np.ndarray, model: str, size_bytes: int, kind: str | None = None, quality: float | None = None
) -> dict[str, Any]:
    """The field alone, or over the codec's picture: bytes of the file, PSNR, seconds to encode."""
    with TemporaryDirectory() as folder, open_source(pixels) as source:
        path = Path(folder) / "crop.cinr"
        options = EncodeOptions(model, size_bytes=size_bytes, prior=kind, prior_quality=quality, device="cpu")
        report = encode(source, path, options)
        with Decoder(path, device="cpu") as decoder:
            decoded = decoder.read_region((0, 0), (CROP_PX, CROP_PX))
    return {
        "what": model if kind is None else f"{kind} + {model}",
        "bytes": report.cinr_bytes,
        "psnr_db": round(float(psnr(pixels, decoded)), 3),
        "seconds": round(report.seconds, 1),
        "quality": quality,
    }


if __name__ == "__main__":
    main()
