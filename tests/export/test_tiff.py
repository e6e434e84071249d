"""The pyramid TIFF as OpenSlide and tifffile read it."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from inrwsi import open_slide
from inrwsi.export import ExportReport, export, halves
from inrwsi.formats.export_tiff import bare_jpeg, per_cm_ratio
from inrwsi.metrics import psnr
from tests.export.conftest import ICC, LEVELS_WH, MACRO, MPP_UM, WH, Made
from tests.fake_octaves import FakeCoder, fake_file


def test_openslide_reads_the_tiff(made: Made, tiff: tuple[Path, ExportReport]) -> None:
    path, report = tiff
    with openslide.OpenSlide(path) as slide:
        properties = slide.properties
        assert properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == LEVELS_WH == report.levels_wh
        assert slide.level_downsamples == pytest.approx((1, 2, 4), rel=4e-3)
        assert float(properties["openslide.mpp-x"]) == pytest.approx(MPP_UM[0], rel=1e-7)
        assert float(properties["openslide.mpp-y"]) == pytest.approx(MPP_UM[1], rel=1e-7)
        assert properties["openslide.level[2].tile-width"] == "512"
        assert slide.read_region((0, 0), 0, (1, 1)).info["icc_profile"] == ICC
        for level, want in enumerate(halves(made.pixels, 2)):
            rgba = np.asarray(slide.read_region((0, 0), level, LEVELS_WH[level]))
            assert (rgba[..., 3] == 255).all()
            assert psnr(np.ascontiguousarray(rgba[..., :3]), want) > 36
    assert report.written_bytes == path.stat().st_size
    assert report.damaged == ()


def test_the_tiff_is_an_ome_tiff_too(made: Made, tiff: tuple[Path, ExportReport]) -> None:
    """One slide with levels and a scale, and the macro, by a reader of OME-TIFF; a page a level by the main chain."""
    with tifffile.TiffFile(tiff[0]) as file:
        assert not file.is_bigtiff
        slide, macro = file.series
        assert [level.shape[1::-1] for level in slide.levels] == list(LEVELS_WH)
        assert (slide.name, macro.name) == ("slide", "macro")
        assert psnr(slide.asarray(), made.pixels) > 40
        assert np.abs(macro.asarray().astype(int) - MACRO).max() <= 3
        pages = [file.pages.get(number, aspage=True) for number in range(len(file.pages))]
        assert [page.subfiletype for page in pages] == [0, 0, 1, 1]
        assert [page.is_tiled for page in pages] == [True, False, True, True]
        assert pages[0].subifds == tuple(page.offset for page in pages[2:])
        root = ElementTree.fromstring(file.ome_metadata)
    space = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    objective = root.find("ome:Instrument/ome:Objective", space)
    assert objective is not None
    assert objective.get("NominalMagnification") == "40"
    pixels = root.find("ome:Image/ome:Pixels", space)
    assert pixels is not None
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")) == ("0.25269999999999998", "0.25309999999999999")
    assert (pixels.get("SizeX"), pixels.get("SizeC")) == ("1301", "3")


def test_tiles_say_nothing_of_colour(tiff: tuple[Path, ExportReport]) -> None:
    """No JFIF marker, components 0 to 2: with either, Bio-Formats shows a 4:4:4 slide in magenta."""
    with tifffile.TiffFile(tiff[0]) as file, open(tiff[0], "rb") as raw:
        page = file.pages.first
        for offset in page.dataoffsets:
            raw.seek(offset)
            head = raw.read(700)
            assert head.startswith(b"\xff\xd8\xff\xdb")
            frame = head.index(b"\xff\xc0")
            assert [head[frame + 10 + 3 * k] for k in range(3)] == [0, 1, 2]
            assert head[frame + 11] == 0x11  # 4:4:4
        assert page.tags["YCbCrSubSampling"].value == (1, 1)
        assert page.tags["PhotometricInterpretation"].value == 6


def test_less_quality_is_half_the_colour(made: Made, tiff: tuple[Path, ExportReport], tmp_path: Path) -> None:
    report = export(made.path, tmp_path / "small.tiff", quality=60, device="cpu")
    assert report.written_bytes < tiff[1].written_bytes / 2
    with tifffile.TiffFile(tmp_path / "small.tiff") as file:
        assert file.pages.first.tags["YCbCrSubSampling"].value == (2, 2)
        assert file.pages.first.jpegheader is None
    with openslide.OpenSlide(tmp_path / "small.tiff") as slide:
        rgba = np.asarray(slide.read_region((0, 0), 0, WH))
        assert 28 < psnr(np.ascontiguousarray(rgba[..., :3]), made.pixels) < 36


def test_a_large_tiff_is_a_bigtiff(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.formats.export_tiff._CLASSIC_BYTES", 1000)
    export(made.path, tmp_path / "big.tif", device="cpu")
    with tifffile.TiffFile(tmp_path / "big.tif") as file:
        assert file.is_bigtiff
        assert len(file.pages) == 4
        assert [len(series.levels) for series in file.series] == [3, 1]
    with openslide.OpenSlide(tmp_path / "big.tif") as slide:
        assert slide.level_dimensions == LEVELS_WH
        assert np.asarray(slide.read_region((0, 0), 2, LEVELS_WH[2]))[..., 3].min() == 255


def test_a_slide_says_its_scale(made: Made, tmp_path: Path) -> None:
    with open_slide(made.path, mpp_um=1.5) as slide:
        export(slide, tmp_path / "told.tif", device="cpu")
        assert slide.read_region((0, 0), 0, (3, 3)).size == (3, 3)  # it stays open
    with openslide.OpenSlide(tmp_path / "told.tif") as told:
        assert float(told.properties["openslide.mpp-x"]) == pytest.approx(1.5, rel=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_slides_without_facts(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One level, no scale, no profile; grey stays grey."""
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    noise = fake_file(tmp_path / "noise.cinr", (300, 200), channels=channels)
    export(noise.path, tmp_path / "noise.tif", quality=100, device="cpu")
    with tifffile.TiffFile(tmp_path / "noise.tif") as file:
        (series,) = file.series
        assert series.shape == ((200, 300, 3) if channels == 3 else (200, 300))
        assert psnr(series.asarray().reshape(200, 300, channels), noise.octaves[0]) > 40
        assert b"PhysicalSize" not in file.ome_metadata.encode()
    with openslide.OpenSlide(tmp_path / "noise.tif") as slide:
        assert slide.level_count == 1
        assert "openslide.mpp-x" not in slide.properties
        rgb = np.asarray(slide.read_region((0, 0), 0, (300, 200)))[..., :3]
        want = noise.octaves[0].repeat(3 // channels, axis=2)
        assert psnr(np.ascontiguousarray(rgb), want) > 40


@pytest.mark.parametrize("mpp_um", [1e-4, 0.05, 0.2527, 0.499, 1 / 3, 32.0, 1e4 * 2**20])
def test_resolutions_fit_a_tiff(mpp_um: float) -> None:
    pixels, cm = per_cm_ratio(mpp_um)
    assert 0 < pixels < 2**32
    assert 0 < cm < 2**32
    assert 1e4 * cm / pixels == pytest.approx(mpp_um, rel=1e-7)


def test_a_jpeg_without_what_it_says_of_colour() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (10, 200, 30)).save(buffer, "jpeg", subsampling=0)
    bare = bare_jpeg(buffer.getvalue())
    assert len(bare) == len(buffer.getvalue()) - 18
    assert b"JFIF" not in bare
