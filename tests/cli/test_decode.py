"""`inrwsi decode`: regions, scales, formats and damage."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrwsi.formats.container import Container
from tests.cli.conftest import SLIDE_WH, TILE_PX, run, told


@pytest.fixture(scope="module")
def whole(cinr: Path) -> np.ndarray:
    """All pixels of the file, as the library decodes them."""
    from inrwsi.decode import Decoder

    with Decoder(cinr, device="cpu") as decoder:
        return decoder.read_region((0, 0), SLIDE_WH)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_whole_slide_without_loss(suffix: str, cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / f"all{suffix}"
    result = run("decode", cinr, "-o", out, "--device", "cpu", "-q")
    assert (result.exit_code, result.output) == (0, "")
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), whole)
        # 0.5 um a pixel is 20,000 pixels a centimetre.
        if suffix == ".png":
            assert image.info["dpi"][0] == pytest.approx(20000 * 2.54, rel=1e-4)
        else:
            assert float(image.tag_v2[282]) == pytest.approx(20000, rel=1e-6)
    assert os.listdir(tmp_path) == [out.name]


def test_jpeg_is_near_and_takes_a_quality(cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    sizes, errors = [], []
    for quality in (50, 95):
        out = tmp_path / f"{quality}.jpg"
        assert run("decode", cinr, "-o", out, "--quality", quality, "--device", "cpu", "-q").exit_code == 0
        with Image.open(out) as image:
            errors.append(np.abs(np.asarray(image).astype(int) - whole).mean())
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(
    ("options", "size_wh", "mpp_um"),
    [
        (("--mag", 20), (30, 20), 0.5),
        (("--mag", 5), (8, 5), 2.0),  # 7.5 rounds to the even 8
        (("--mpp", 1.25), (12, 8), 1.25),
        (("--downsample", 0.5), (60, 40), 0.25),
        (("--size", "15x10"), (15, 10), 1.0),
    ],
)
def test_scales(
    options: tuple[object, ...], size_wh: tuple[int, int], mpp_um: float, cinr: Path, tmp_path: Path
) -> None:
    from inrwsi.decode import Decoder

    out = tmp_path / "view.tif"
    result = run("decode", cinr, "-o", out, "--region", "50,40,30,20", *options, "--device", "cpu", "-q")
    assert result.exit_code == 0, result.output
    with Decoder(cinr, device="cpu") as decoder:
        exact = size_wh if options[0] == "--size" else None
        expected = decoder.read_region((50, 40), (30, 20), step=mpp_um / 0.5, out_wh=exact)
    with Image.open(out) as image:
        assert image.size == size_wh
        assert np.array_equal(np.asarray(image), expected)
        assert 1e4 / float(image.tag_v2[282]) == pytest.approx(mpp_um, rel=1e-5)


def test_region_past_the_edge_is_filled_with_the_background(cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "edge.png"
    assert run("decode", cinr, "-o", out, "--region", "-10,90,30,20", "--device", "cpu", "-q").exit_code == 0
    with Container.open(cinr) as container:
        background = container.header.slide.background
    with Image.open(out) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (20, 30, 3)
    assert np.array_equal(pixels[:10, 10:], whole[90:, :20])
    assert (pixels[10:] == background).all()
    assert (pixels[:, :10] == background).all()


def test_damaged_chunk_is_refused_or_salvaged(cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    blob = bytearray(cinr.read_bytes())
    with Container.open(cinr) as container:
        payload = container.chunk(0, (1, 0)).payload
        background = container.header.slide.background
    assert payload is not None
    blob[blob.index(payload) + len(payload) // 2] ^= 1
    damaged, out = tmp_path / "damaged.cinr", tmp_path / "rest.png"
    damaged.write_bytes(blob)
    told(run("decode", damaged, "-o", out, "--device", "cpu", "-q"), 3, "column 1, row 0")
    assert os.listdir(tmp_path) == ["damaged.cinr"]
    # A region that does not need the damaged chunk is not refused.
    assert run("decode", damaged, "-o", out, "--region", "0,0,64,64", "--device", "cpu", "-q").exit_code == 0
    result = run("decode", damaged, "-o", out, "--salvage", "--overwrite", "--device", "cpu", "-q")
    told(result, 0, "inrwsi: filled with the background: ")
    assert "column 1, row 0" in result.stderr
    with Image.open(out) as image:
        pixels = np.asarray(image)
    expected = whole.copy()
    expected[:TILE_PX, TILE_PX : 2 * TILE_PX] = background
    assert np.array_equal(pixels, expected)
