"""Deep Zoom, and the tiles that every format is made of."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

import inrwsi.export
from inrwsi import open_slide
from inrwsi.export import export, halves, pyramid_tiles
from inrwsi.formats.export_base import PyramidSpec
from inrwsi.metrics import psnr
from inrwsi.progress import Progress
from tests.export.conftest import WH, Made, left

# ---- Deep Zoom


def test_deep_zoom_has_openslides_geometry(made: Made, tmp_path: Path) -> None:
    report = export(made.path, tmp_path / "slide.dzi", quality=95, device="cpu")
    assert left(tmp_path) == {"slide.dzi", "slide_files"}
    root = ElementTree.parse(tmp_path / "slide.dzi").getroot()
    assert dict(root.attrib) == {"Format": "jpeg", "Overlap": "0", "TileSize": "512"}
    assert dict(root[0].attrib) == {"Width": "1301", "Height": "777"}
    with open_slide(made.path) as slide:
        theirs = DeepZoomGenerator(slide, tile_size=512, overlap=0)
        assert len(report.levels_wh) == theirs.level_count == 12
        assert tuple(reversed(report.levels_wh)) == theirs.level_dimensions
        assert len(list((tmp_path / "slide_files").rglob("*.jpeg"))) == theirs.tile_count
        for level, (columns, rows) in enumerate(theirs.level_tiles):
            for ij in ((i, j) for i in range(columns) for j in range(rows)):
                with Image.open(tmp_path / "slide_files" / str(level) / f"{ij[0]}_{ij[1]}.jpeg") as tile:
                    assert tile.size == theirs.get_tile_dimensions(level, ij)
    with Image.open(tmp_path / "slide_files" / "11" / "2_1.jpeg") as tile:
        assert psnr(np.asarray(tile), np.ascontiguousarray(made.pixels[512:, 1024:])) > 38
    with Image.open(tmp_path / "slide_files" / "0" / "0_0.jpeg") as pixel:
        assert np.abs(np.asarray(pixel)[0, 0] - made.pixels.mean(axis=(0, 1))).max() < 10


# ---- tiles


def test_each_tile_once_whatever_the_blocks(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks: levels 0 and 1 of one pass over four of them, level 2 of a pass of its own."""
    from inrwsi.decode import Decoder

    monkeypatch.setattr(inrwsi.export, "HALVINGS", 1)
    monkeypatch.setattr(inrwsi.export, "BLOCK_PX", 1024)
    seen: list[Progress] = []
    spec = PyramidSpec(WH, 3, None, None, None, 90)
    levels = [np.zeros((*spec.level_wh(level)[::-1], 3), np.uint8) for level in range(3)]
    counts = [np.zeros(level.shape[:2], int) for level in levels]
    with Decoder(made.path, device="cpu") as decoder:
        for level, (i, j), pixels in pyramid_tiles(decoder, WH, 3, seen.append):
            at = np.s_[j * 512 : j * 512 + pixels.shape[0], i * 512 : i * 512 + pixels.shape[1]]
            levels[level][at] = pixels
            counts[level][at] += 1
        direct = decoder.read_region((0, 0), (326 * 4, 195 * 4), step=4)
    assert all((count == 1).all() for count in counts)
    full, half = halves(made.pixels, 1)
    assert np.array_equal(levels[0], full)
    assert np.array_equal(levels[1], half)
    assert np.array_equal(levels[2], direct)
    assert seen[-1].done == pytest.approx(seen[-1].total) == pytest.approx((1301 * 777 + 326 * 195) / 1e6)


def test_means_are_rounded_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    for level, got in enumerate(halves(pixels, 3)):
        side = 1 << level
        want = pixels.reshape(48 // side, side, 32 // side, side, 3).mean(axis=(1, 3))
        assert np.array_equal(got, np.floor(want + 0.5))
    odd = list(halves(np.arange(15, dtype=np.uint8).reshape(5, 3, 1), 2))
    assert [level.shape for level in odd] == [(5, 3, 1), (3, 2, 1), (2, 1, 1)]
    assert odd[1][2, 1] == 14  # the corner stands for the four that it covers
