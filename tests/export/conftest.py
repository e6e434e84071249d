"""A file with everything that an export should carry on, made once, and its TIFF."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageCms

from inrwsi.cli.main import main
from inrwsi.export import ExportReport, export
from inrwsi.formats.header import AssociatedInfo
from tests.copied import copied
from tests.encoded import encode_fast, tissue

WH = (1301, 777)
LEVELS_WH = ((1301, 777), (651, 389), (326, 195))
MPP_UM = (0.2527, 0.2531)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MACRO = np.full((40, 90, 3), (200, 30, 90), np.uint8)


@dataclass(frozen=True)
class Made:
    """A file with all that an export can carry, and what it decodes to."""

    path: Path
    pixels: np.ndarray


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A slide that was encoded, and copied into a file that has a profile and an associated image too."""
    from inrwsi.decode import Decoder

    folder = tmp_path_factory.mktemp("export")
    encode_fast(tissue(WH), folder / "bare.cinr", mpp_um=MPP_UM, objective_power=40, quality=70)
    buffer = io.BytesIO()
    Image.fromarray(MACRO).save(buffer, "png")
    macro = AssociatedInfo("macro", 90, 40, "png")
    copied(folder / "bare.cinr", folder / "slide.cinr", icc=ICC, associated=[(macro, buffer.getvalue())])
    with Decoder(folder / "slide.cinr", device="cpu") as decoder:
        return Made(folder / "slide.cinr", decoder.read_region((0, 0), WH))


@pytest.fixture(scope="package")
def tiff(made: Made) -> tuple[Path, ExportReport]:
    out = made.path.with_name("slide.tif")
    return out, export(made.path, out, quality=95, device="cpu")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
