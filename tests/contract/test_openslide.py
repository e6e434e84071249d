"""What holds of OpenSlide's reading of a TIFF holds of ours of the same slide, encoded. Every test runs on both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from ctypes import ArgumentError
from typing import Any

import numpy as np
import openslide
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image, ImageCms, ImageFilter

from inrwsi.metrics import psnr
from tests.contract.conftest import LEVELS, WH, Pair

Slide = openslide.AbstractSlide
NATIVE_DB = 40
# The pyramid's levels are means of level-0 pixels, ours of the samples of a wavelet, which are sharper. This slide is
# all fine texture.
COARSER_DB = 32
SIZES = tuple((WH[0] >> k, WH[1] >> k) for k in range(LEVELS))


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def db(a: np.ndarray, b: np.ndarray) -> float:
    return float(psnr(np.ascontiguousarray(a[..., :3]), np.ascontiguousarray(b[..., :3])))


# ---- what a slide says of itself


def test_levels(slide: Slide) -> None:
    assert isinstance(slide, openslide.AbstractSlide)
    assert slide.level_count == LEVELS
    assert slide.level_dimensions == SIZES
    assert slide.dimensions == WH
    assert slide.level_downsamples == (1.0, 2.0, 4.0)
    assert all(type(v) is int for wh in slide.level_dimensions for v in wh)
    assert all(type(v) is float for v in slide.level_downsamples)


def test_properties(slide: Slide) -> None:
    properties = slide.properties
    assert isinstance(properties, Mapping)
    assert all(type(key) is str and type(value) is str for key, value in properties.items())
    assert list(properties) == sorted(properties)
    assert len(properties) == len(list(properties))
    want = {"openslide.level-count": "3", "openslide.mpp-x": "0.5", "openslide.mpp-y": "0.5"}
    for k, (w, h) in enumerate(SIZES):
        sizes = {"width": w, "height": h, "downsample": 2**k, "tile-width": 256, "tile-height": 256}
        want |= {f"openslide.level[{k}].{key}": str(value) for key, value in sizes.items()}
    assert {key: properties.get(key) for key in want} == want
    assert properties.get("openslide.background-color", "ffffff").lower() == "ffffff"
    assert len(properties["openslide.quickhash-1"]) == 64
    assert properties["openslide.quickhash-1"] == slide.properties["openslide.quickhash-1"]
    assert properties["openslide.vendor"] == slide.detect_format(slide_path(slide))
    assert "openslide.objective-power" not in properties
    with pytest.raises(KeyError):
        properties["openslide.nothing"]
    assert "openslide.level[0].width" in repr(properties)


def slide_path(slide: Slide) -> str:
    """What the slide says that it was opened with."""
    name, rest = repr(slide).split("(", 1)
    assert name == type(slide).__name__
    return rest.rstrip(")").removeprefix("PosixPath(").strip("'")


def test_format(slide: Slide, tmp_path: Any) -> None:
    (tmp_path / "text.txt").write_text("no slide")
    assert slide.detect_format(tmp_path / "text.txt") is None
    assert slide.detect_format(str(tmp_path / "missing")) is None


@pytest.mark.parametrize(
    ("downsample", "level"),
    [(-1, 0), (0, 0), (0.5, 0), (1, 0), (1.99, 0), (2, 1), (3.99, 1), (4, 2), (100, 2), (math.inf, 2), (math.nan, 2)],
)
def test_best_level(slide: Slide, downsample: float, level: int) -> None:
    assert slide.get_best_level_for_downsample(downsample) == level


def test_associated_images(slide: Slide) -> None:
    assert isinstance(slide.associated_images, Mapping)
    assert dict(slide.associated_images) == {}
    with pytest.raises(KeyError):
        slide.associated_images["label"]


def test_colour_profile(slide: Slide, icc: bytes) -> None:
    assert isinstance(slide.color_profile, ImageCms.ImageCmsProfile)
    assert slide.color_profile.tobytes() == icc
    assert slide.properties["openslide.icc-size"] == str(len(icc))
    assert slide.read_region((0, 0), 1, (5, 5)).info["icc_profile"] == icc
    assert slide.get_thumbnail((50, 50)).info["icc_profile"] == icc


# ---- regions


@pytest.mark.parametrize("level", range(LEVELS))
def test_a_region(slide: Slide, level: int) -> None:
    region = slide.read_region((300, 200), level, (90, 41))
    assert isinstance(region, Image.Image)
    assert region.mode == "RGBA"
    assert region.size == (90, 41)
    whole = pixels_of(slide.read_region((0, 0), level, SIZES[level]))
    assert (whole[..., 3] == 255).all()
    x, y = 300 >> level, 200 >> level
    assert np.array_equal(pixels_of(region), whole[y : y + 41, x : x + 90])


@pytest.mark.parametrize("level", range(LEVELS))
def test_outside_is_transparent(slide: Slide, level: int) -> None:
    w, h = SIZES[level]
    scale = 2**level
    whole = pixels_of(slide.read_region((0, 0), level, (w, h)))
    around = pixels_of(slide.read_region((-8 * scale, -4 * scale), level, (w + 20, h + 10)))
    assert np.array_equal(around[4 : 4 + h, 8 : 8 + w], whole)
    around = around.copy()
    around[4 : 4 + h, 8 : 8 + w] = 0
    assert not around.any()
    for corner in ((10**12, 0), (0, -(10**12)), (w * scale, 0), (0, h * scale), (-5 * scale, 0)):
        assert not pixels_of(slide.read_region(corner, level, (5, 5))).any()


def test_a_position_between_pixels_is_between_them(slide: Slide) -> None:
    """Of level 1, at odd positions of level 0: a mean of neighbours, and half transparent at the slide's edge."""
    whole = pixels_of(slide.read_region((0, 0), 1, SIZES[1])).astype(float)
    moved = pixels_of(slide.read_region((201, 100), 1, (60, 50))).astype(float)
    want = (whole[50:100, 100:160] + whole[50:100, 101:161]) / 2
    assert np.abs(moved - want).max() <= 1.5
    moved = pixels_of(slide.read_region((200, 101), 1, (60, 50))).astype(float)
    want = (whole[50:100, 100:160] + whole[51:101, 100:160]) / 2
    assert np.abs(moved - want).max() <= 1.5


def test_the_edge_is_half_transparent_between_pixels(slide: Slide) -> None:
    w, h = SIZES[1]
    whole = pixels_of(slide.read_region((0, 0), 1, (w, h))).astype(int)
    edge = pixels_of(slide.read_region((2 * w - 3, 2 * h - 5), 1, (3, 4))).astype(int)
    assert np.abs(edge[..., 3] - [[255, 128, 0], [255, 128, 0], [128, 64, 0], [0, 0, 0]]).max() <= 1
    assert np.abs(edge[0, 1, :3] - whole[h - 3 : h - 1, w - 1, :3].mean(axis=0)).max() <= 3  # not mixed with black


@pytest.mark.parametrize("x", [-1, -2, -3, -4, -5])
def test_positions_before_the_slide_are_whole_pixels(slide: Slide, x: int) -> None:
    whole = pixels_of(slide.read_region((0, 0), 1, (4, 4)))
    before = pixels_of(slide.read_region((x, x), 1, (4, 4)))
    offset = -x // 2
    assert np.array_equal(before[offset:, offset:], whole[: 4 - offset, : 4 - offset])
    assert not before[:offset].any()
    assert not before[:, :offset].any()


@pytest.mark.parametrize("size", [(0, 0), (0, 7), (7, 0)])
def test_an_empty_region(slide: Slide, size: tuple[int, int]) -> None:
    region = slide.read_region((0, 0), 0, size)
    assert (region.mode, region.size) == ("RGBA", size)


@pytest.mark.parametrize("level", [-1, LEVELS, 99])
def test_a_level_that_is_not_there_is_transparent(slide: Slide, level: int) -> None:
    region = slide.read_region((0, 0), level, (6, 4))
    assert region.size == (6, 4)
    assert not pixels_of(region).any()


def test_numpy_integers(slide: Slide) -> None:
    location, size = np.array([64, 32]), np.array([10, 8], np.int32)
    region = slide.read_region((location[0], location[1]), np.int64(1), (size[0], size[1]))
    assert np.array_equal(pixels_of(region), pixels_of(slide.read_region((64, 32), 1, (10, 8))))


@pytest.mark.parametrize("size", [(-1, 5), (5, -1), (-1, 0)])
def test_a_negative_size(slide: Slide, size: tuple[int, int]) -> None:
    with pytest.raises(openslide.OpenSlideError, match="negative width"):
        slide.read_region((0, 0), 0, size)
    assert slide.read_region((0, 0), 0, (2, 2)).size == (2, 2)


@pytest.mark.parametrize("arguments", [((0.5, 0), 0, (4, 4)), ((0, 0), 0.0, (4, 4)), ((0, 0), "0", (4, 4))])
def test_arguments_of_the_wrong_type(slide: Slide, arguments: Any) -> None:
    with pytest.raises(ArgumentError):
        slide.read_region(*arguments)


def test_a_size_of_the_wrong_type(slide: Slide) -> None:
    with pytest.raises(TypeError):
        slide.read_region((0, 0), 0, (4.0, 4))  # type: ignore[arg-type]


# ---- thumbnails, Deep Zoom, threads


@pytest.mark.parametrize(
    ("most", "size"),
    [((100, 100), (100, 75)), ((100, 30), (40, 30)), ((1, 1), (1, 1)), ((333, 333), (333, 250)), ((5000, 5000), WH)],
)
def test_thumbnail(slide: Slide, pair: Pair, most: tuple[int, int], size: tuple[int, int]) -> None:
    thumbnail = slide.get_thumbnail(most)
    assert (thumbnail.mode, thumbnail.size) == ("RGB", size)
    want = Image.fromarray(pair.pixels).resize(size, Image.Resampling.LANCZOS)
    assert db(pixels_of(thumbnail), pixels_of(want)) > COARSER_DB


def test_thumbnails_that_cannot_be(slide: Slide) -> None:
    with pytest.raises(ZeroDivisionError):
        slide.get_thumbnail((0, 5))
    with pytest.raises(ValueError, match="zip"):
        slide.get_thumbnail((5,))  # type: ignore[arg-type]


@pytest.mark.parametrize("limit_bounds", [False, True])
def test_deep_zoom(slide: Slide, pair: Pair, limit_bounds: bool) -> None:
    zoom = DeepZoomGenerator(slide, tile_size=254, overlap=1, limit_bounds=limit_bounds)
    assert zoom.level_count == 11
    assert zoom.level_dimensions[-1] == WH
    assert zoom.level_tiles[-1] == (5, 4)
    assert "<Size" in zoom.get_dzi("jpeg")
    picture = Image.fromarray(pair.pixels)
    for level in (0, 4, 8, 9, 10):
        size = zoom.level_dimensions[level]
        small = pixels_of(picture.resize(size, Image.Resampling.BOX))
        for column, row in {(0, 0), tuple(n - 1 for n in zoom.level_tiles[level])}:
            tile = zoom.get_tile(level, (column, row))
            x, y = max(0, column * 254 - 1), max(0, row * 254 - 1)
            assert tile.mode == "RGB"
            assert tile.size == zoom.get_tile_dimensions(level, (column, row))
            assert db(pixels_of(tile), small[y : y + tile.height, x : x + tile.width]) > COARSER_DB
    with pytest.raises(ValueError, match="Invalid address"):
        zoom.get_tile(10, (99, 0))


def test_threads(slide: Slide) -> None:
    corners = [(x, y) for x in range(0, 900, 100) for y in range(0, 700, 100)]
    want = [pixels_of(slide.read_region(corner, 0, (100, 80))) for corner in corners]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda corner: pixels_of(slide.read_region(corner, 0, (100, 80))), corners))
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_set_cache(slide: Slide) -> None:
    slide.set_cache(openslide.OpenSlideCache(1 << 20))
    assert slide.read_region((0, 0), 0, (5, 5)).size == (5, 5)
    with pytest.raises(TypeError, match="Not a cache object"):
        slide.set_cache(None)  # type: ignore[arg-type]


# ---- the end


@pytest.mark.parametrize(
    "use",
    [
        lambda s: s.level_count,
        lambda s: s.level_dimensions,
        lambda s: s.level_downsamples,
        lambda s: s.dimensions,
        lambda s: dict(s.properties),
        lambda s: dict(s.associated_images),
        lambda s: s.get_best_level_for_downsample(1),
        lambda s: s.read_region((0, 0), 0, (5, 5)),
        lambda s: s.get_thumbnail((5, 5)),
        lambda s: s.set_cache(openslide.OpenSlideCache(1)),
    ],
)
def test_a_closed_slide(slide: Slide, use: Any) -> None:
    with slide as entered:
        assert entered is slide
    with pytest.raises(ArgumentError):
        use(slide)


# ---- the two, side by side


def test_both_say_the_same(both: tuple[Slide, Slide]) -> None:
    theirs, ours = (dict(s.properties) for s in both)
    differ = {key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]}
    assert differ == {"openslide.vendor", "openslide.quickhash-1"}
    assert {key for key in theirs if key not in ours and key.startswith("openslide.")} == set()
    assert ours["inrwsi.source-vendor"] == theirs["openslide.vendor"] == "generic-tiff"


@pytest.mark.parametrize("level", range(LEVELS))
@pytest.mark.parametrize("corner", [(0, 0), (301, 203), (-40, 600)])
def test_both_show_the_same(both: tuple[Slide, Slide], level: int, corner: tuple[int, int]) -> None:
    theirs, ours = (pixels_of(s.read_region(corner, level, (400, 300))).astype(np.uint8) for s in both)
    assert np.abs(theirs[..., 3].astype(int) - ours[..., 3]).max() <= 1
    assert db(theirs, ours) > (COARSER_DB if level else NATIVE_DB)


def test_deep_zoom_tiles_of_both_are_close(both: tuple[Slide, Slide]) -> None:
    theirs, ours = (DeepZoomGenerator(s) for s in both)
    assert theirs.level_dimensions == ours.level_dimensions
    assert theirs.level_tiles == ours.level_tiles
    for level in range(theirs.level_count):
        for column, row in np.ndindex(*theirs.level_tiles[level]):
            at = (int(column), int(row))
            assert theirs.get_tile_coordinates(level, at) == ours.get_tile_coordinates(level, at)
            a, b = (pixels_of(z.get_tile(level, at)) for z in (theirs, ours))
            assert a.shape == b.shape
            assert db(a, b) > (COARSER_DB if level < 10 else NATIVE_DB), (level, at)


def offset_px(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """How far (h, w) `ours` lies to the right of `theirs`, and below, in pixels: least squares over the gradients."""
    down, right = np.gradient(theirs)
    slopes = np.stack((right.ravel(), down.ravel()), axis=1)
    found, *_ = np.linalg.lstsq(slopes, (theirs - ours).ravel(), rcond=None)
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("level", range(LEVELS))
def test_levels_of_both_lie_over_each_other(both: tuple[Slide, Slide], level: int) -> None:
    """The wavelet's samples lie at the first of 2^k pixels, and are shown there: nothing is moved."""
    smooth = [
        np.asarray(s.read_region((0, 0), level, (180, 180)).convert("L").filter(ImageFilter.GaussianBlur(2)), float)
        for s in both
    ]
    assert np.abs(offset_px(*smooth)).max() < 0.01
