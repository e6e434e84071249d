"""A slide goes in, a .cinr comes out, a region comes back at two magnifications, and one table says what it cost.

    python -m benchmarks.demo [--slide PATH] [--out DIR]

Without a slide it makes one. Everything lies in DIR afterwards, with result.json beside the pictures.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from inrwsi.cli.main import main as inrwsi
from inrwsi.cli.progress_view import progress_view
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.job import write_whole
from inrwsi.options import DEFAULT_QUALITY
from inrwsi.tissue import tissue_mask

from .measure import OVERVIEW_PX, measure_file

REGION_PX = 1024
DOWNSAMPLE = 4
EFFORT = "fast"
LIBRARIES = ("inrwsi", "torch", "numpy", "numba", "openslide-python", "imagecodecs")


@click.command()
@click.option("--slide", type=click.Path(path_type=Path), help="The slide to encode.  [default: a generated one]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Where all goes.")
@click.option("--size", default="2048x2048", show_default=True, metavar="WxH", help="Of the generated slide.")
@click.option("--quality", type=float, help="As for inrwsi encode.")
def main(slide: Path | None, out: Path, size: str, quality: float | None) -> None:
    """Encode a slide, decode a region of it at two magnifications, and print what it cost and what it kept."""
    out.mkdir(parents=True, exist_ok=True)
    if slide is None:
        slide = out / "sample.tiff"
        run("sample", "-o", str(slide), "--size", size, "--overwrite")
    cinr = out / f"{slide.stem}.cinr"
    target = () if quality is None else ("--quality", f"{quality:g}")
    encode_s = run("encode", str(slide), "-o", str(cinr), *target, "--effort", EFFORT, "--overwrite")
    pictures = (out / "region.png", out / f"region-downsample-{DOWNSAMPLE}.png")
    with open_source(slide) as source:
        region = richest_region(source)
        run("decode", str(cinr), "-o", str(pictures[0]), "--region", region, "--overwrite")
        lower = ("--downsample", str(DOWNSAMPLE))
        run("decode", str(cinr), "-o", str(pictures[1]), "--region", region, *lower, "--overwrite")
        with progress_view(quiet=False) as progress:
            measured = measure_file(source, cinr, progress=progress)
    result = {"slide": slide.name, "encode_seconds": encode_s, **measured}
    machine = {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    settings = {"quality": DEFAULT_QUALITY if quality is None else quality, "effort": EFFORT}
    versions = {name: version(name) for name in LIBRARIES}
    record = {**result, "settings": settings, "machine": machine, "versions": versions}
    write_whole(out / "result.json", json.dumps(record, indent=2, allow_nan=False).encode() + b"\n")
    Console().print(table(result))
    click.echo(f"{pictures[0]} and {pictures[1]}: the region {region} at full resolution and at 1/{DOWNSAMPLE}")


def run(*arguments: str) -> float:
    """Run one `inrwsi` command in this process, showing it as it would be typed; its seconds. Ends at a failure."""
    click.echo("$ " + shlex.join(("inrwsi", *arguments)))
    began = time.perf_counter()
    try:
        inrwsi(list(arguments))
    except SystemExit as ended:  # click ends every command so, the good ones with 0
        if ended.code:
            raise
    return time.perf_counter() - began


def richest_region(source: SlideSource) -> str:
    """The square of `REGION_PX` (or the slide, if smaller) with the most tissue, as `x,y,w,h` in level-0 pixels."""
    w, h = min(REGION_PX, source.width), min(REGION_PX, source.height)
    tissue = tissue_mask(source.overview(OVERVIEW_PX), source.background)
    rows, columns = tissue.shape
    # Sums of all windows at once: differences of the doubly summed map.
    sums = np.zeros((rows + 1, columns + 1))
    sums[1:, 1:] = tissue.cumsum(0).cumsum(1)
    tall, wide = max(1, h * rows // source.height), max(1, w * columns // source.width)
    windows = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    row, column = np.unravel_index(windows.argmax(), windows.shape)
    x = min(int(column) * source.width // columns, source.width - w)
    y = min(int(row) * source.height // rows, source.height - h)
    return f"{x},{y},{w},{h}"


def table(result: dict[str, Any]) -> Table:
    """The result for a person. What was measured on a part of the slide says so."""
    rows = Table(box=SIMPLE, show_header=False, title=result["slide"], title_justify="left")
    rows.add_column()
    rows.add_column(justify="right")
    part = result["measured_px"] / result["slide_px"]
    over = "" if part == 1 else f" (on {part:.0%} of the rows)"
    rows.add_row("source", f"{result['source_bytes']:,} bytes")
    rows.add_row(".cinr", f"{result['cinr_bytes']:,} bytes")
    rows.add_row("slide", f"{result['slide_px'] / 1e6:.2f} Mpx, {result['bpp']:.3f} bits a pixel")
    rows.add_row("tissue", f"{result['tissue_px'] / 1e6:.2f} Mpx, {_number(result['tissue_bpp'], '.3f')} bits a pixel")
    rows.add_row(f"PSNR over tissue{over}", f"{_number(result['psnr_tissue_db'], '.2f')} dB")
    rows.add_row("encode", f"{result['encode_seconds']:.1f} s")
    rows.add_row(f"decode{over}", f"{result['decode_seconds']:.1f} s, {result['decode_mpx_s']:.2f} Mpx/s")
    return rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    main()
