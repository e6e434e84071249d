"""What the guidance losses are worth: `python -m benchmarks.guidance`, into results/guidance.json.

One model on a crop with many nuclei of each of two slides, fitted by each loss to a file of one size; PSNR, MS-SSIM,
and F1 and Dice of nuclei (`benchmarks.fidelity_nuclei`) of what these decode to. Squared error is fitted from several
seeds: what lies between these is chance. The network of `--loss-network` is a small one that is trained here, on a
third slide, to give the classical map of nuclei, and is handed over as a user would: as a TorchScript file. Points that
are done lie in results/.partial until all are.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import click
import numpy as np

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions

from . import results
from .fidelity_nuclei import Nuclei, find_nuclei, match
from .guidance_network import Trained, train
from .probe import library_versions
from .quality import measure as quality_of
from .record import head
from .results import Record
from .run import code_digest

RESULTS = Path(__file__).parent / "results"
PARTIAL = RESULTS / ".partial" / "guidance"
SLIDES = ("liver-HE.png", "duodenum-NET-HE.png")
NETWORK_SLIDE = "stomach-ectopic-pancreas-HE.png"
MPP_UM = 0.5
MODEL, CROP_PX, BPP, PASSES = "siren", 384, 1.0, 60
GRID = 8  # places along each axis that a crop is chosen from
SEEDS = (0, 1, 2)  # of squared error


@dataclass(frozen=True)
class Variant:
    """A loss, whether by the network, and the seed of the fit."""

    loss: str
    network: bool = False
    seed: int = 0


VARIANTS = (
    *(Variant("mse", seed=seed) for seed in SEEDS),
    *(Variant(loss) for loss in ("ms-ssim", "stain", "nuclei", "segmentation")),
    *(Variant(loss, network=True) for loss in ("segmentation", "perceptual")),
)


@dataclass(frozen=True)
class Crop:
    """A crop of a slide: its upper left pixel, and how many nuclei were found in it."""

    slide: str
    l0_xy: tuple[int, int]
    nuclei: int


@dataclass(frozen=True)
class GuidancePoint:
    """A file of one crop. `cpu_seconds` are of the process, on a machine that did other things too."""

    slide: str
    variant: Variant
    file_bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float
    nuclei_f1: float
    nuclei_dice: float
    cpu_seconds: float


@dataclass(frozen=True)
class GuidanceRun(Record):
    """All of it."""

    model: str
    crop_px: int
    passes: int
    network: Trained
    crops: tuple[Crop, ...]
    points: tuple[GuidancePoint, ...]
    schema: int = 1


def busiest(slide: Path, crop_px: int) -> tuple[Crop, np.ndarray]:
    """The crop with the most nuclei of a grid over the slide, and its (crop_px, crop_px, 3) uint8."""
    with open_source(slide) as source:
        xs, ys = (np.linspace(0, side - crop_px, GRID).astype(int).tolist() for side in (source.width, source.height))
        found = []
        for y in ys:
            for x in xs:
                pixels = np.ascontiguousarray(source.read((x, y), (crop_px, crop_px))[..., :3])
                found.append((Crop(slide.name, (x, y), find_nuclei(pixels, MPP_UM).count), pixels))
    return max(found, key=lambda item: item[0].nuclei)


@dataclass(frozen=True)
class Bench:
    """Points on the disk.

    Attributes:
        folder: of points that are done.
        network: the TorchScript file of its features, and that of its segmentation.
        options: what all encodings share.
    """

    folder: Path
    features: Path
    segmentation: Path
    options: EncodeOptions

    def point(self, crop: Crop, pixels: np.ndarray, original: Nuclei, variant: Variant) -> GuidancePoint:
        """Encode and decode; or from the folder, where this code did that with the same pixels."""
        network = None if not variant.network else self.features if variant.loss == "perceptual" else self.segmentation
        facts = [
            *(repr(variant), repr(self.options), sha256(pixels.tobytes()).hexdigest(), library_versions()),
            *(code_digest(True), "" if network is None else sha256(network.read_bytes()).hexdigest()),
        ]
        known = self.folder / f"{sha256(json.dumps(facts).encode()).hexdigest()[:16]}.json"
        if known.exists():
            return results.load(GuidancePoint, known)
        options = replace(self.options, loss=variant.loss, loss_network=network, seed=variant.seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "crop.cinr"
            began = time.process_time()
            with open_source(pixels, mpp_um=MPP_UM) as source:
                encode(source, path, options)
            cpu_seconds = time.process_time() - began
            with Decoder(path, device="cpu") as decoder:
                decoded = decoder.read_region((0, 0), (pixels.shape[1], pixels.shape[0]))
            file_bytes = os.stat(path).st_size
        found = quality_of(pixels, decoded)
        nuclei = match(original, find_nuclei(decoded, MPP_UM)).metrics()
        point = GuidancePoint(
            slide=crop.slide,
            variant=variant,
            file_bytes=file_bytes,
            bpp=8 * file_bytes / (pixels.shape[0] * pixels.shape[1]),
            psnr_db=found["psnr_rgb"],
            ms_ssim=found["ms_ssim"],
            nuclei_f1=nuclei["nuclei_f1"],
            nuclei_dice=nuclei["nuclei_dice"],
            cpu_seconds=cpu_seconds,
        )
        results.save(point, known)
        return point


def run(slides: Path, *, folder: Path, crop_px: int = CROP_PX, passes: int = PASSES) -> GuidanceRun:
    """Measure every variant on every slide.

    Args:
        slides: the folder of the development images.
        folder: for points that are done.
    """
    options = EncodeOptions(MODEL, size_bytes=round(BPP * crop_px**2 / 8), passes=passes, device="cpu")
    crops, points = [], []
    with tempfile.TemporaryDirectory() as made:
        features, segmentation = Path(made) / "features.pt", Path(made) / "segmentation.pt"
        trained = train(slides / NETWORK_SLIDE, features, segmentation)
        bench = Bench(folder, features, segmentation, options)
        for name in SLIDES:
            crop, pixels = busiest(slides / name, crop_px)
            original = find_nuclei(pixels, MPP_UM)
            crops.append(crop)
            for variant in VARIANTS:
                points.append(bench.point(crop, pixels, original, variant))
                click.echo(line(points[-1]))
    return GuidanceRun(
        **head("python -m benchmarks.guidance", library_versions()),
        model=MODEL,
        crop_px=crop_px,
        passes=passes,
        network=trained,
        crops=tuple(crops),
        points=tuple(points),
    )


def name_of(variant: Variant) -> str:
    """As the tables have it."""
    seed = f", seed {variant.seed}" if variant.seed else ""
    return f"{variant.loss}{', by a network' if variant.network else ''}{seed}"


def line(point: GuidancePoint) -> str:
    """A point for a terminal."""
    return (
        f"{point.slide}, {name_of(point.variant)}: {point.file_bytes} bytes, {point.psnr_db:.2f} dB, MS-SSIM "
        f"{point.ms_ssim:.4f}, nuclei F1 {point.nuclei_f1:.3f}, Dice {point.nuclei_dice:.3f}, "
        f"{point.cpu_seconds:.0f} s of CPU"
    )


@click.command()
@click.option("--slides", type=click.Path(path_type=Path), default=Path("../shared/slides"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "guidance.json", show_default=True)
def main(slides: Path, out: Path) -> None:
    """What each loss does to PSNR, MS-SSIM and nuclei at equal bits."""
    missing = [name for name in (*SLIDES, NETWORK_SLIDE) if not (slides / name).is_file()]
    if missing:
        raise click.ClickException(f"--slides {slides}: lacks {', '.join(missing)}; give the development images")
    try:
        found = run(slides, folder=PARTIAL)
    except UsageError as error:
        raise click.ClickException(str(error)) from None
    results.save(found, out)
    shutil.rmtree(PARTIAL, ignore_errors=True)
    click.echo(str(out))


if __name__ == "__main__":
    main()
