"""What our own settings are worth: `python -m benchmarks.settings`, into results/settings.json.

Refinement (`--effort default` and `best` on a picture too small to be fitted to) and what it is tuned for (`--tune
psnr` and `ms-ssim`) against `--effort fast`: bits at equal PSNR and at equal MS-SSIM on a crop of each image. Sizes are
those of files, which were decoded again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions

from . import bd, results
from .probe import library_versions
from .quality import measure as quality_of
from .record import head
from .results import Record

RESULTS = Path(__file__).parent / "results"
IMAGES = ("lymph-node-anthracosis-HE.png", "liver-HE.png", "duodenum-NET-HE.png", "kidney-pale-HE.png")
SIDE_PX = 1024  # below what is fitted to
QUALITIES = (36.0, 50.0, 64.0, 78.0)
REFERENCE = "fast"
VARIANTS = {
    REFERENCE: EncodeOptions(effort="fast"),
    "default": EncodeOptions(effort="default"),
    "best": EncodeOptions(effort="best"),
    "fast, tune psnr": EncodeOptions(effort="fast", tune="psnr"),
    "fast, tune ms-ssim": EncodeOptions(effort="fast", tune="ms-ssim"),
}


@dataclass(frozen=True)
class SettingPoint:
    """A file of one image."""

    image: str
    variant: str
    quality: float
    file_bytes: int
    bpp: float
    psnr_db: float
    ms_ssim: float


@dataclass(frozen=True)
class Worth:
    """Of a variant against the reference: bits in per cent at equal PSNR and MS-SSIM; the mean where `image` is all."""

    image: str
    variant: str
    psnr_percent: float
    ms_ssim_percent: float


@dataclass(frozen=True)
class SettingsRun(Record):
    """All of it."""

    crop_px: int
    points: tuple[SettingPoint, ...]
    worth: tuple[Worth, ...]
    schema: int = 1


def point(image: str, rgb: np.ndarray, variant: str, quality: float) -> SettingPoint:
    """Encode and decode (h, w, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crop.cinr"
        with open_source(rgb, mpp_um=0.5) as source:
            encode(source, path, replace(VARIANTS[variant], quality=quality))
        with Decoder(path) as decoder:
            decoded = decoder.read_region((0, 0), (rgb.shape[1], rgb.shape[0]))
        size = path.stat().st_size
    found = quality_of(rgb, decoded)
    bpp = 8 * size / (rgb.shape[0] * rgb.shape[1])
    return SettingPoint(image, variant, quality, size, bpp, found["psnr_rgb"], found["ms_ssim"])


def worth(points: Sequence[SettingPoint]) -> list[Worth]:
    """Every variant but the reference, image by image and on the mean.

    Raises:
        NoCommonRange: two curves of an image have too little in common.
    """

    def curves(image: str, variant: str) -> tuple[bd.Curve, bd.Curve]:
        own = [p for p in points if (p.image, p.variant) == (image, variant)]
        return (
            bd.curve([(p.bpp, p.psnr_db) for p in own]),
            bd.curve([(p.bpp, bd.ms_ssim_db(p.ms_ssim)) for p in own]),
        )

    found = []
    images = list(dict.fromkeys(p.image for p in points))
    for variant in dict.fromkeys(p.variant for p in points if p.variant != REFERENCE):
        rows = []
        for image in images:
            pairs = zip(curves(image, variant), curves(image, REFERENCE), strict=True)
            rows.append(Worth(image, variant, *(bd.bd_rate(own, other)[0] for own, other in pairs)))
        means = (float(np.mean([getattr(r, n) for r in rows])) for n in ("psnr_percent", "ms_ssim_percent"))
        found += [*rows, Worth("all", variant, *means)]
    return found


@click.command()
@click.option("--slides", type=click.Path(path_type=Path), default=Path("../shared/slides"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "settings.json", show_default=True)
def main(slides: Path, out: Path) -> None:
    """Bits at equal quality of our settings against --effort fast."""
    if not slides.is_dir():
        raise UsageError(f"--slides {slides}: is not there; give the folder of the development images")
    points = []
    for image in IMAGES:
        with open_source(slides / image) as source:
            x, y = (source.width - SIDE_PX) // 2, (source.height - SIDE_PX) // 2
            rgb = np.ascontiguousarray(source.read((x, y), (SIDE_PX, SIDE_PX))[..., :3])
        for variant in VARIANTS:
            for quality in QUALITIES:
                points.append(point(image, rgb, variant, quality))
                p = points[-1]
                click.echo(f"{image}, {variant}, quality {quality:g}: {p.bpp:.3f} bpp, {p.psnr_db:.2f} dB")
    found = worth(points)
    results.save(
        SettingsRun(
            **head("python -m benchmarks.settings", library_versions()),
            crop_px=SIDE_PX,
            points=tuple(points),
            worth=tuple(found),
        ),
        out,
    )
    for row in found:
        click.echo(
            f"{row.image}, {row.variant}: {row.psnr_percent:+.1f} % at equal PSNR, "
            f"{row.ms_ssim_percent:+.1f} % at equal MS-SSIM"
        )


if __name__ == "__main__":
    main()
