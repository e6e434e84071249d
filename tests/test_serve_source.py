"""The source slide beside a `.cinr` file: its pixels lie where they should, and its colours are a screen's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from inrwsi.formats.source_image import ArraySource
from inrwsi.geometry import Rect
from inrwsi.serve.slides import OpenSource, srgb_transform, to_srgb
from inrwsi.slide_levels import SlideLevels


def test_a_sources_pyramid_is_read_where_its_pixels_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels whose sizes were rounded down: of downsamples like 4.003."""
    rng = np.random.default_rng(3)
    native = rng.integers(0, 256, (699, 1101, 3), np.uint8)
    levels = [native]
    for d in (4, 16):
        h, w = 699 // d * d, 1101 // d * d
        levels.append(np.rint(native[:h, :w].reshape(h // d, d, w // d, d, 3).mean((1, 3))).astype(np.uint8))

    class Pyramid(ArraySource):
        levels_wh = tuple(level.shape[1::-1] for level in levels)

        def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
            part = levels[level][y : y + h, x : x + w]
            assert part.shape == (h, w, 3)
            return part

    monkeypatch.setattr("inrwsi.serve.slides.open_source", lambda path: Pyramid(native))
    source = OpenSource(Path("pyramid.tif"))
    got = source.read(Rect(256, 128, 20, 47), 4)  # the last of 276 columns and 175 rows are not in the file
    assert np.array_equal(got[:46, :19], levels[1][128:174, 256:275])
    assert np.array_equal(got[46], got[45])
    assert np.array_equal(got[:, 19], got[:, 18])
    eighth = levels[1][:174, :274].reshape(87, 2, 137, 2, 3).astype(float).mean((1, 3))
    assert np.array_equal(source.read(Rect(0, 0, 137, 87), 8), np.floor(eighth + 0.5).astype(np.uint8))
    assert np.array_equal(source.read(Rect(3, 4, 60, 30), 16), levels[2][4:34, 3:63])


def test_a_large_slide_without_levels_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (699, 1101, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "flat.png")
    whole = OpenSource(tmp_path / "flat.png").read(Rect(1, 2, 80, 50), 8.7)
    sizes = []

    def counted(self: SlideLevels, level: int, rect: Rect) -> np.ndarray:
        sizes.append((rect.w, rect.h))
        return read(self, level, rect)

    read = SlideLevels.read
    monkeypatch.setattr(SlideLevels, "read", counted)
    monkeypatch.setattr("inrwsi.serve.slides.BLOCK_PX", 100)
    assert np.array_equal(OpenSource(tmp_path / "flat.png").read(Rect(1, 2, 80, 50), 8.7), whole)
    assert len(sizes) == 7 * 5
    assert max(sizes) <= (100, 100)


def swapped_srgb() -> bytes:
    """The profile of a display whose red is sRGB's blue, and the other way round."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return icc.replace(b"rXYZ", b"____", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"____", b"bXYZ", 1)


def test_colours_are_those_of_a_screen(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), (200, 100, 50))
    image.save(tmp_path / "swapped.png", icc_profile=swapped_srgb())
    source = OpenSource(tmp_path / "swapped.png")
    assert np.abs(np.asarray(source.picture(Rect(1, 1, 2, 2), 1)).astype(int) - (50, 100, 200)).max() <= 1
    assert (source.read(Rect(1, 1, 2, 2), 1) == (200, 100, 50)).all()  # as stored: what is measured
    for icc in (None, b"", b"no profile"):
        assert srgb_transform(icc) is None
    assert to_srgb(image, None) is image
    lab: Any = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    assert srgb_transform(lab.tobytes()) is None  # not of RGB
