"""From a slide file to `.cinr`, to patches for torch, to a viewer in the browser, and to QuPath.

    python docs/walkthrough.py slide.svs --out walkthrough       of a slide of yours
    python docs/walkthrough.py --out walkthrough                 of a generated one
    python docs/walkthrough.py slide.svs --serve                 ends with the viewer: Ctrl-C stops it

Each function below is one step, and stands by itself. `pip install inrwsi[serve]` for the viewer; the rest needs
no extra.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
from torch.utils.data import DataLoader

import inrwsi
from inrwsi.compare import compare, worst_tiles_picture
from inrwsi.data import PatchDataset
from inrwsi.encode import encode
from inrwsi.export import export
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions
from inrwsi.sample import write_sample


def encode_slide(slide: Path, cinr: Path) -> None:
    """A slide goes in, a `.cinr` file comes out. `effort="default"` takes longer and needs fewer bytes for a PSNR."""
    with open_source(slide) as source:
        report = encode(source, cinr, EncodeOptions(quality=70, effort="fast"), overwrite=True)
    print(f"encoded: {report.source_bytes:,} bytes became {report.cinr_bytes:,}, {report.bpp:.2f} bits a pixel")


def read(cinr: Path) -> np.ndarray:
    """Where OpenSlide was, `inrwsi.open_slide` is: the same calls, and reads at any magnification besides."""
    with inrwsi.open_slide(cinr) as slide:
        x, y = (side // 3 for side in slide.dimensions)
        level = slide.get_best_level_for_downsample(4)
        tile = slide.read_region((x, y), level, (256, 256))  # PIL, RGBA
        patch = slide.read_region_at((x, y), (256, 256), mpp=1.0, as_array=True)  # (256, 256, 3) uint8
        power = slide.properties.get("openslide.objective-power", "unknown")
    print(f"read: level {level} gave {tile.size} {tile.mode}, 1 um a pixel {patch.shape}; objective power {power}")
    return patch


def patches(cinr: Path) -> int:
    """Tissue patches for torch at 1 um a pixel, in batches; how many there are."""
    dataset = PatchDataset(cinr, 128, mpp=1.0, min_tissue=0.5)
    count = 0
    for batch in DataLoader(dataset, batch_size=16, num_workers=0):  # workers are welcome
        count += len(batch["image"])
    print(f"patches: {count} of 128 x 128 pixels, each at least half tissue")
    return count


def check(cinr: Path, slide: Path, picture: Path) -> float:
    """How near it is to the slide, and a picture of where it is worst; the PSNR in dB.

    As a command: `inrwsi verify slide.cinr --against slide.svs --worst-tiles worst.png`.
    """
    report = compare(cinr, slide, worst=4)
    worst_tiles_picture(report.worst).save(picture)
    print(f"compared: PSNR {report.psnr_db:.2f} dB, SSIM {report.ssim:.4f}; the worst tiles are in {picture}")
    return report.psnr_db


def to_qupath(cinr: Path, tiff: Path) -> None:
    """A TIFF that OpenSlide opens, and QuPath: drag it into QuPath's window.

    As a command: `inrwsi export slide.cinr slide.tif`; `.ome.zarr` and `.dzi` are for napari and for the web.
    """
    export(cinr, tiff, overwrite=True)
    with openslide.OpenSlide(tiff) as slide:
        mpp_um = slide.properties.get(openslide.PROPERTY_NAME_MPP_X, "an unknown number of")
        print(f"exported: {tiff}, levels {slide.level_dimensions}, {mpp_um} um a pixel")


def view(cinr: Path, slide: Path, *, stay: bool) -> None:
    """Pan and zoom in a browser, beside the slide that it was made of."""
    arguments = ["serve", str(cinr), "--source", str(slide)]
    print("to look at it: inrwsi", *arguments)
    if stay:
        code = "from inrwsi.cli.main import main; main(prog_name='inrwsi')"
        subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slide", nargs="?", type=Path, help="a slide file; a generated one if left out")
    parser.add_argument("--out", type=Path, default=Path("walkthrough"), help="the folder for what is made")
    parser.add_argument("--size", type=int, default=2048, help="side of the generated slide in pixels")
    parser.add_argument("--serve", action="store_true", help="start the viewer at the end")
    chosen = parser.parse_args(arguments)
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    slide: Path | None = chosen.slide
    if slide is None:
        slide = out / "sample.tiff"
        write_sample(slide, size_wh=(chosen.size, chosen.size), seed=1, mpp_um=0.5)
    cinr = out / f"{slide.stem}.cinr"
    encode_slide(slide, cinr)
    read(cinr)
    patches(cinr)
    check(cinr, slide, out / "worst.png")
    to_qupath(cinr, out / f"{slide.stem}.tif")
    view(cinr, slide, stay=chosen.serve)


if __name__ == "__main__":
    main()
