"""What a GPU machine needs beside the checkout, into the ignored folder carried/: `python -m benchmarks.gpu_carry`.

Such a machine may have neither the slides nor a network. The paper's crop and the training pictures are put there as
JPEG, so that they are small enough to send; measurements there are of those pixels.

    carried/crop.jpg, crop.json   the paper's crop, and where it lies
    carried/slides                the pictures that the prior may be trained on
    carried/wheels                packages that the machine lacks, for its Python
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import click
import imagecodecs
import numpy as np

from inrwsi.errors import UsageError
from inrwsi.fit.prior import TRAINED_ON
from inrwsi.formats.source import open_source
from inrwsi.job import write_whole

from .paper_crop import crop_of
from .paper_fit import PAPER_SIDE_PX

CARRIED = Path("carried")
CROP, PLACE, SLIDES, WHEELS = (CARRIED / name for name in ("crop.jpg", "crop.json", "slides", "wheels"))
PLACES = 4
QUALITY, SLIDES_QUALITY = 95, 90  # training compresses its crops again
LACKING = ("crc32c", "imagecodecs", "openslide-python", "openslide-bin", "zstandard")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@click.command(help=__doc__.partition("\n\n")[0])
@click.option("--slide", type=click.Path(path_type=Path), help="The slide to take the paper's crop of: slide-40x.tiff.")
@click.option("--side", "side_px", type=click.IntRange(128), default=PAPER_SIDE_PX, show_default=True, metavar="PX")
@click.option("--slides", type=click.Path(path_type=Path), help="Folder of the development images, to train on.")
@click.option("--wheels", "python", metavar="VERSION", help="Fetch packages for that version of Python, such as 3.12.")
def main(slide: Path | None, side_px: int, slides: Path | None, python: str | None) -> None:
    """Fill carried/ with what is asked for."""
    if not (slide or slides or python):
        raise UsageError("nothing is asked for; give --slide, --slides or --wheels")
    if slide:
        pixels, l0_xy = crop_of(slide, side_px, PLACES)
        put(CROP, pixels, QUALITY)
        about = {"slide": slide.name, "l0_xy": list(l0_xy), "jpeg_quality": QUALITY}
        write_whole(PLACE, (json.dumps(about) + "\n").encode())
    if slides:
        for name in TRAINED_ON:
            with open_source(slides / name) as source:
                pixels = source.read((0, 0), (source.width, source.height))
            put(SLIDES / name, np.ascontiguousarray(pixels[..., :3]), SLIDES_QUALITY)
    if python:
        fetch_wheels(python)
    files = [path for path in sorted(CARRIED.rglob("*")) if path.is_file()]
    click.echo(f"{CARRIED}: {len(files)} files, {sum(path.stat().st_size for path in files) / 2**20:.1f} MiB")


def put(path: Path, pixels: np.ndarray, quality: int) -> None:
    """Write (h, w, 3) uint8 as JPEG, under whatever name: what opens it looks at the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, bytes(imagecodecs.jpeg8_encode(pixels, quality, subsampling="444", optimize=True)))
    click.echo(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def fetch_wheels(python: str) -> None:
    """The packages that a GPU machine lacks, of the versions here."""
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in LACKING]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "-d", str(WHEELS)]
    command += [part for platform in PLATFORMS for part in ("--platform", platform)]
    if subprocess.run([*command, *wanted], check=False).returncode:
        raise UsageError(f"--wheels {python}: not all of {', '.join(wanted)} could be fetched; pip says why")


if __name__ == "__main__":
    main()
