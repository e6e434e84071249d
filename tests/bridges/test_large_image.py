"""Slides through `large_image.open`."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import large_image
import numpy as np
import pytest
from PIL import Image, ImageCms

from inrwsi.bridges.large_image import TILE_PX, CinrTileSource
from tests.bridges.conftest import WH, Bridged, decoded_chunks
from tests.fake_octaves import BACKGROUND, FakeFile

Source = Any


@pytest.fixture
def source(slide: Bridged) -> Source:
    return large_image.open(slide.path)


def test_large_image_takes_our_source(slide: Bridged, tmp_path: Path) -> None:
    assert type(large_image.open(str(slide.path))) is CinrTileSource
    assert type(large_image.getTileSource(slide.path)) is CinrTileSource
    assert large_image.canRead(slide.path)
    assert "cinr" in large_image.listSources()["extensions"]
    other = shutil.copy(slide.path, tmp_path / "slide.unknown")
    assert type(large_image.open(other)) is CinrTileSource
    picture = tmp_path / "picture.png"
    Image.new("RGB", (9, 9)).save(picture)
    assert not CinrTileSource.canRead(picture)
    with pytest.raises(large_image.exceptions.TileSourceFileNotFoundError):
        large_image.open(tmp_path / "none.cinr")


def test_what_it_says_of_itself(source: Source) -> None:
    assert source.getMetadata() == {
        "levels": 3,
        "sizeX": WH[0],
        "sizeY": WH[1],
        "tileWidth": TILE_PX,
        "tileHeight": TILE_PX,
        "magnification": 20.0,
        "mm_x": 0.0005,
        "mm_y": 0.0004,
        "dtype": "uint8",
        "bandCount": 3,
    }
    assert source.getMagnificationForLevel(1)["magnification"] == 10
    assert source.getInternalMetadata()["inrwsi"]["openslide.objective-power"] == "20"


def test_tiles_are_the_slides_pixels(source: Source, slide: Bridged) -> None:
    columns, rows = 3, 3
    for j in range(rows):
        for i in range(columns):
            tile = source.getTile(i, j, 2, numpyAllowed=True)
            want = slide.octaves[0][j * TILE_PX :, i * TILE_PX :][:TILE_PX, :TILE_PX]
            assert tile.shape == (TILE_PX, TILE_PX, 3)
            assert np.array_equal(tile[: want.shape[0], : want.shape[1]], want)
            assert (tile[want.shape[0] :] == 255).all()
    assert np.array_equal(source.getTile(1, 1, 1, numpyAllowed=True)[:49, :94], slide.octaves[1][256:, 256:])
    assert np.array_equal(source.getTile(0, 0, 0, numpyAllowed=True)[:153, :175], slide.octaves[2])
    with Image.open(io.BytesIO(source.getTile(0, 0, 0, encoding="PNG"))) as tile:
        assert (tile.size, tile.mode) == ((TILE_PX, TILE_PX), "RGB")
    for x, y, z in ((3, 0, 2), (0, 3, 2), (0, 0, 3), (0, 0, -1)):
        with pytest.raises(large_image.exceptions.TileSourceXYZRangeError):
            source.getTile(x, y, z)


def test_regions_at_scales(source: Source, slide: Bridged) -> None:
    region = {"left": 101, "top": 57, "width": 400, "height": 333}
    native, _ = source.getRegion(region=region, format=large_image.constants.TILE_FORMAT_NUMPY)
    assert np.array_equal(native, slide.octaves[0][57:390, 101:501])
    region = {"left": 100, "top": 60, "width": 400, "height": 320}
    for scale in ({"magnification": 10}, {"mm_x": 0.001, "mm_y": 0.0008}):
        half, _ = source.getRegion(region=region, scale=scale, format=large_image.constants.TILE_FORMAT_NUMPY)
        assert np.array_equal(half, slide.octaves[1][30:190, 50:250])
    tiles = list(source.tileIterator(scale={"magnification": 10}, tile_size={"width": 100, "height": 100}))
    assert len(tiles) == 4 * 4
    assert np.array_equal(tiles[5]["tile"][..., :3], slide.octaves[1][100:200, 100:200])


def test_a_thumbnail_is_of_the_whole_slide(source: Source, slide: Bridged) -> None:
    data, mime = source.getThumbnail(width=175, encoding="PNG")
    assert mime == "image/png"
    with Image.open(io.BytesIO(data)) as thumbnail:
        assert thumbnail.size == (175, 152)
        got = np.asarray(thumbnail.convert("RGB")).astype(int)
    assert np.abs(got - slide.octaves[2][:152]).mean() < 2


def test_associated_images(source: Source, slide: Bridged) -> None:
    assert source.getAssociatedImagesList() == ["macro"]
    data, mime = source.getAssociatedImage("macro", encoding="PNG")
    assert mime == "image/png"
    with Image.open(io.BytesIO(data)) as macro:
        assert np.array_equal(np.asarray(macro.convert("RGB")), slide.macro)
    assert source.getAssociatedImage("label") is None


def test_sources_are_kept_and_cross_processes(slide: Bridged) -> None:
    assert large_image.open(str(slide.path)) is large_image.open(str(slide.path))
    again = pickle.loads(pickle.dumps(large_image.open(str(slide.path), noCache=True)))
    assert np.array_equal(again.getTile(0, 0, 1, numpyAllowed=True), slide.octaves[1][:TILE_PX, :TILE_PX])


def test_a_tile_decodes_its_own_chunks(noise: FakeFile) -> None:
    source = large_image.open(noise.path, noCache=True)
    assert source.levels == 4
    assert source.getNativeMagnification() == {"magnification": None, "mm_x": None, "mm_y": None}
    tile = source.getTile(4, 2, 3, numpyAllowed=True)
    assert np.array_equal(tile[:187, :77], noise.octaves[0][512:, 1024:])
    assert (tile[187:] == BACKGROUND).all()
    assert decoded_chunks(noise, 0) == {(4, 2)}


def test_damage_is_told(damaged: FakeFile, slide: Bridged, tmp_path: Path) -> None:
    source = large_image.open(damaged.path, noCache=True)
    with pytest.raises(large_image.exceptions.TileSourceError, match="octave 0, column 1, row 1"):
        source.getTile(1, 1, 3)
    cut = tmp_path / "cut.cinr"
    cut.write_bytes(slide.path.read_bytes()[:-100])
    with pytest.raises(large_image.exceptions.TileSourceError, match=r"cut\.cinr: damaged \(truncated\)"):
        large_image.open(cut)


def test_the_colour_profile_is_handed_over(slide: Bridged, monkeypatch: pytest.MonkeyPatch) -> None:
    """large_image applies it to what it shows, or not, as it does with every source."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    monkeypatch.setattr("inrwsi.formats.container.Container.icc", lambda self: profile)
    source = large_image.open(slide.path, noCache=True)
    assert source.getICCProfiles(0).tobytes() == profile
    monkeypatch.setattr("inrwsi.formats.container.Container.icc", lambda self: b"not a profile")
    assert large_image.open(slide.path, noCache=True).getICCProfiles() is None
