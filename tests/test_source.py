"""Slide sources: the same pixels through every kind of file, facts with their provenance, and damage that is named."""

from __future__ import annotations

import struct
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from inrwsi.encode_common import Sections
from inrwsi.errors import UsageError
from inrwsi.formats import source_tiff
from inrwsi.formats.source import SlideSource, open_source, overview_step, source_wh
from inrwsi.formats.source_base import composite

SLIDES = Path(__file__).parents[2] / "shared" / "slides"
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
W, H = 333, 251


def picture(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, (H, W, channels), dtype)


def whole(source: SlideSource) -> np.ndarray:
    return source.read((0, 0), (source.width, source.height))


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))


def real(name: str) -> Path:
    if not (SLIDES / name).exists():
        pytest.skip(f"the real slide {name} is not at hand")
    return SLIDES / name


RGB: dict[str, Any] = {"photometric": "rgb"}
ZLIB: dict[str, Any] = {"compression": "zlib"}
CYX: dict[str, Any] = {"metadata": {"axes": "CYX"}}
# name -> channels, dtype, whether written plane by plane, how
TIFFS: dict[str, tuple[int, type, bool, dict[str, Any]]] = {
    "rgb-tiles-8": (3, np.uint8, False, {**RGB, "tile": (64, 48)}),
    "rgb-tiles-16": (3, np.uint16, False, {**RGB, **ZLIB, "tile": (64, 48)}),
    "rgb-one-strip": (3, np.uint8, False, RGB),
    "rgb-strips-lzw": (3, np.uint8, False, {**RGB, "compression": "lzw", "rowsperstrip": 10, "predictor": True}),
    "rgb-planar": (3, np.uint16, True, {**RGB, **ZLIB, "planarconfig": "separate", "tile": (64, 64)}),
    "grey-tiles": (1, np.uint8, False, {"photometric": "minisblack", "tile": (64, 64)}),
    "grey-16-big-endian": (1, np.uint16, False, {"photometric": "minisblack", "byteorder": ">"}),
    "five-pages-ome": (5, np.uint16, True, {**ZLIB, **CYX, "ome": True, "tile": (128, 64)}),
    "five-pages-ome-raw": (5, np.uint16, True, {**CYX, "ome": True}),
    "imagej-channels": (4, np.uint8, True, {**CYX, "imagej": True}),
    "sixteen-interleaved": (16, np.uint8, False, {**ZLIB, "photometric": "minisblack", "planarconfig": "contig"}),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiff_windows_are_the_pixels_that_were_written(tmp_path: Path, kind: str) -> None:
    channels, dtype, planar, options = TIFFS[kind]
    pixels = picture(channels, dtype)
    stored = planes(pixels) if planar else (pixels[..., 0] if channels == 1 else pixels)
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    with open_source(tmp_path / "a.tif") as source:
        assert (source.width, source.height, source.channels) == (W, H, channels)
        assert source.bit_depth == np.dtype(dtype).itemsize * 8
        assert source.bytes_on_disk == (tmp_path / "a.tif").stat().st_size
        assert len(source.background) == channels
        for (x, y), (w, h) in [((0, 0), (W, H)), ((61, 63), (5, 2)), ((100, 7), (200, 130)), ((W - 1, H - 1), (1, 1))]:
            window = source.read((x, y), (w, h))
            assert window.dtype == dtype
            assert np.array_equal(window, pixels[y : y + h, x : x + w])


def test_eight_bit_rgb_pyramids_go_through_openslide_and_all_else_does_not(tmp_path: Path) -> None:
    """OpenSlide opens all of these, and would show sixteen bits as eight and one channel of five."""
    for kind, through_openslide in [("rgb-tiles-8", True), ("rgb-tiles-16", False), ("grey-tiles", False)]:
        channels, dtype, _, options = TIFFS[kind]
        pixels = picture(channels, dtype)
        tifffile.imwrite(tmp_path / "a.tif", pixels[..., 0] if channels == 1 else pixels, **options)
        assert openslide.OpenSlide.detect_format(tmp_path / "a.tif") == "generic-tiff"
        with open_source(tmp_path / "a.tif") as source:
            assert ("openslide.vendor" in source.metadata) == through_openslide


def test_min_is_white_and_alpha(tmp_path: Path) -> None:
    pixels = picture(4)
    tifffile.imwrite(tmp_path / "w.tif", pixels[..., 0], photometric="miniswhite")
    with open_source(tmp_path / "w.tif") as source:
        assert np.array_equal(whole(source)[..., 0], 255 - pixels[..., 0])
    grey, most = pixels[..., :1], pixels[..., 3:]
    share = most.astype(float) / 255
    for kind, stored, shown in (
        ("unassalpha", 255 - grey, grey * share),
        ("assocalpha", np.minimum(grey, most), most - np.minimum(grey, most).astype(float)),
    ):
        held = np.concatenate([stored, most], axis=2)
        tifffile.imwrite(tmp_path / "w.tif", held, photometric="miniswhite", extrasamples=[kind], planarconfig="contig")
        with open_source(tmp_path / "w.tif") as source:
            assert np.abs(whole(source) - (shown + 255 * (1 - share))).max() <= 0.5 + 1e-9
    alpha = pixels[..., 3:].astype(float) / 255
    for kind, colour in [("unassalpha", pixels[..., :3] * alpha), ("assocalpha", pixels[..., :3])]:
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=[kind], tile=(64, 64))
        with open_source(tmp_path / "a.tif") as source:
            expected = np.minimum(colour + 255 * (1 - alpha), 255)
            assert source.channels == 3
            assert np.abs(whole(source) - expected).max() <= 0.5 + 1e-9


def test_jpeg_tiles_of_a_tiff_that_openslide_refuses(tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(picture()[:20, :30]).resize((W, H), Image.Resampling.BICUBIC))
    tifffile.imwrite(tmp_path / "a.tif", smooth, photometric="rgb", compression="jpeg", rowsperstrip=64)
    assert openslide.OpenSlide.detect_format(tmp_path / "a.tif") is None
    with open_source(tmp_path / "a.tif") as source:
        assert np.abs(whole(source).astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("kind", ["rgb-tiles-8", "rgb-tiles-16", "rgb-strips-lzw", "five-pages-ome"])
def test_reads_from_threads_agree(tmp_path: Path, kind: str) -> None:
    channels, dtype, planar, options = TIFFS[kind]
    pixels = picture(channels, dtype)
    tifffile.imwrite(tmp_path / "a.tif", planes(pixels) if planar else pixels, **options)
    corners = [(x, y) for y in range(0, H - 40, 17) for x in range(0, W - 40, 23)]
    start = threading.Barrier(4)
    with open_source(tmp_path / "a.tif") as source, ThreadPoolExecutor(4, initializer=start.wait) as pool:
        for (x, y), window in zip(corners, pool.map(lambda xy: source.read(xy, (40, 40)), corners), strict=True):
            assert np.array_equal(window, pixels[y : y + 40, x : x + 40])


# ---- facts


def test_pixel_size_from_resolution_tags(tmp_path: Path) -> None:
    for unit, per_unit in [("CENTIMETER", 1e4), ("INCH", 25400.0)]:
        for layout in ({"tile": (64, 64)}, {"compression": "zlib"}):  # the first through OpenSlide
            tifffile.imwrite(
                tmp_path / "a.tif",
                picture(),
                photometric="rgb",
                resolution=(per_unit / 0.25, per_unit / 0.5),
                resolutionunit=unit,
                iccprofile=ICC,
                **layout,
            )
            with open_source(tmp_path / "a.tif") as source:
                assert source.mpp_um == pytest.approx((0.25, 0.5), rel=1e-6)
                assert (source.mpp_source, source.objective_power) == ("tiff-resolution", None)
                assert source.icc == ICC
    for options in (
        {"resolution": (72, 72), "resolutionunit": "INCH"},
        {"resolution": (4, 4), "resolutionunit": "NONE"},
    ):
        tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", **options)
        with open_source(tmp_path / "a.tif") as source:
            assert (source.mpp_um, source.mpp_source) == (None, "unknown")


def test_pixel_size_from_imagej(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture()[..., 0], imagej=True, resolution=(4, 2), metadata={"unit": "um"})
    with open_source(tmp_path / "a.tif") as source:
        assert source.mpp_um == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.25), ("nm", 250.0), ("mm", 0.00025), (None, 0.25)])
def test_pixel_size_and_objective_from_ome_xml(tmp_path: Path, unit: str | None, size: float) -> None:
    stated = f'PhysicalSizeX="{size}" PhysicalSizeY="{size * 2}"'
    if unit:
        stated += f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    xml = f"""<?xml version="1.0" encoding="UTF-8"?>
    <OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
    <Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="10"/>
    <Objective ID="Objective:1" NominalMagnification="40.0"/></Instrument>
    <Image ID="Image:0"><ObjectiveSettings ID="Objective:1"/>
    <Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="{W}" SizeY="{H}" SizeC="3" SizeZ="1" SizeT="1"
    {stated}>
    <Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>"""
    pixels = picture()
    options = {**RGB, "metadata": None, "resolution": (72, 72), "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, description=xml.encode(), **options)
    with open_source(tmp_path / "a.ome.tif") as source:
        assert source.mpp_um == pytest.approx((0.25, 0.5))
        assert (source.mpp_source, source.objective_power, source.objective_source) == ("ome-xml", 40.0, "ome-xml")
        assert np.array_equal(whole(source), pixels)


def test_what_the_user_states_wins(tmp_path: Path) -> None:
    with open_source(picture(), mpp_um=0.25, objective_power=40) as source:
        assert (source.mpp_um, source.mpp_source) == ((0.25, 0.25), "user")
        assert (source.objective_power, source.objective_source) == (40.0, "user")
    with open_source(picture(), mpp_um=(0.25, 0.5)) as source:
        assert (source.mpp_um, source.objective_power, source.objective_source) == ((0.25, 0.5), None, "unknown")
    for wrong in (0.0, -1.0, float("nan"), float("inf"), (0.25,), (0.25, 0.25, 1)):
        with pytest.raises(UsageError, match="mpp"):
            open_source(picture(), mpp_um=wrong)
    with pytest.raises(UsageError, match="objective power 0"):
        open_source(picture(), objective_power=0)


def test_densities_of_pictures_are_believed_where_a_microscope_could_have_made_them(tmp_path: Path) -> None:
    for dpi, expected in [((72, 72), None), ((300, 300), None), ((50800, 101600), (0.5, 0.25))]:
        Image.fromarray(picture()).save(tmp_path / "a.png", dpi=dpi)
        with open_source(tmp_path / "a.png") as source:
            assert source.mpp_um == (expected and pytest.approx(expected, rel=1e-4))
            assert source.mpp_source == ("png-phys" if expected else "unknown")
        Image.fromarray(picture()).save(tmp_path / "a.jpg", dpi=tuple(d // 2 for d in dpi))
        with open_source(tmp_path / "a.jpg") as source:
            assert source.mpp_um == (expected and pytest.approx((1.0, 0.5), rel=1e-4))
            assert source.mpp_source == ("jpeg-density" if expected else "unknown")


# ---- pictures and arrays


def test_modes_of_pictures(tmp_path: Path) -> None:
    rgba = picture(4)
    grey = Image.fromarray(rgba[..., 0])
    over_white = np.asarray(Image.alpha_composite(Image.new("RGBA", (W, H), "white"), Image.fromarray(rgba)))[..., :3]
    palette = Image.fromarray(rgba[..., :3]).quantize(64)
    cases: list[tuple[Image.Image, str, dict[str, Any], np.ndarray | None]] = [
        (grey, "png", {}, rgba[..., :1]),
        (grey.point(lambda v: 255 * (v > 99), "1"), "png", {}, 255 * (rgba[..., :1] > 99)),
        (Image.fromarray(rgba[..., :3]), "png", {"icc_profile": ICC}, rgba[..., :3]),
        (Image.fromarray(rgba), "png", {}, over_white),
        (Image.merge("LA", (grey, Image.fromarray(rgba[..., 3]))), "png", {}, None),
        (palette, "png", {}, np.asarray(palette.convert("RGB"))),
        (Image.fromarray(picture(1, np.uint16)[..., 0]), "png", {}, picture(1, np.uint16)),
        (Image.fromarray(rgba[..., :3]), "bmp", {}, rgba[..., :3]),
    ]
    for image, suffix, options, expected in cases:
        image.save(tmp_path / f"a.{suffix}", **options)
        with open_source(tmp_path / f"a.{suffix}") as source:
            if expected is None:
                alpha = rgba[..., 3:] / 255
                assert np.abs(whole(source) - (rgba[..., :1] * alpha + 255 * (1 - alpha))).max() <= 0.5 + 1e-9
            else:
                assert np.abs(whole(source).astype(int) - expected).max() <= (1 if image.mode == "RGBA" else 0)
                assert whole(source).shape == expected.shape
            assert source.icc == options.get("icc_profile")
            assert source.metadata == {}


def test_colour_of_sixteen_bits_keeps_its_bits(tmp_path: Path) -> None:
    pixels = picture(4, np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels[..., :3])))
    with open_source(tmp_path / "a.png") as source:
        assert (source.bit_depth, source.background) == (16, (65535,) * 3)
        assert np.array_equal(whole(source), pixels[..., :3])
    pixels[:100, :, 3] = 65535
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    with open_source(tmp_path / "a.png") as source:
        alpha = pixels[..., 3:] / 65535
        assert np.array_equal(whole(source)[:100], pixels[:100, :, :3])
        assert np.abs(whole(source) - (pixels[..., :3] * alpha + 65535 * (1 - alpha))).max() <= 0.5 + 1e-6


def test_cmyk_becomes_rgb_and_loses_its_profile(tmp_path: Path) -> None:
    Image.new("CMYK", (40, 30), (0, 255, 255, 0)).save(tmp_path / "a.jpg", icc_profile=ICC)
    with open_source(tmp_path / "a.jpg") as source:
        assert np.abs(whole(source).astype(int) - (255, 0, 0)).max() < 4
        assert source.icc is None


def test_a_turned_photograph_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise to be upright
    Image.fromarray(np.repeat(np.repeat(picture()[:4, :6], 16, 0), 16, 1)).save(tmp_path / "a.png", exif=exif)
    with open_source(tmp_path / "a.png") as source:
        assert (source.width, source.height) == (64, 96)
        assert np.array_equal(whole(source)[::16, ::16], np.rot90(picture()[:4, :6], -1))


def test_a_turned_photographs_pixels_are_as_wide_as_they_were_high(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    dpi = (25400 / 0.25, 25400 / 0.5)
    Image.fromarray(picture()[:4, :6]).save(tmp_path / "a.png", exif=exif, dpi=dpi)
    with open_source(tmp_path / "a.png") as source:
        assert source.mpp_um == pytest.approx((0.5, 0.25), rel=1e-3)
        assert source_wh(tmp_path / "a.png") == (source.width, source.height) == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_are_turned_as_eight_are(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    deep = picture(dtype=np.uint16)[:40, :60]
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "a.png", exif=exif)
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    png = imagecodecs.png_encode(deep)
    said = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", imagecodecs.zlib_crc32(chunk))
    (tmp_path / "b.png").write_bytes(png[:33] + said + png[33:])
    with open_source(tmp_path / "a.png") as a, open_source(tmp_path / "b.png") as b:
        assert b.bit_depth == 16
        assert np.array_equal(whole(a), whole(b) >> 8)


def test_arrays() -> None:
    pixels = picture(2, np.uint16)
    with open_source(pixels) as source:
        assert (source.name, source.channels, source.background) == ("array", 2, (0, 0))
        assert source.bytes_on_disk == pixels.nbytes
        window = source.read((5, 6), (7, 8))
        assert np.array_equal(window, pixels[6:14, 5:12])
        window[:] = 0  # a copy: the array stays
        assert pixels[6:14, 5:12].any()
    with open_source(pixels[..., 0]) as source:
        assert whole(source).shape == (H, W, 1)
    for wrong in (
        np.zeros((3, 3), np.float32),
        np.zeros((3, 3, 17), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.zeros(9, np.uint8),
    ):
        with pytest.raises(UsageError, match="array:"):
            open_source(wrong)


# ---- overview


@pytest.mark.parametrize(
    ("channels", "dtype", "max_px"), [(3, np.uint8, 40), (1, np.uint16, 333), (2, np.uint16, 7), (3, np.uint8, 1)]
)
def test_overview_is_the_box_mean(channels: int, dtype: type, max_px: int) -> None:
    pixels = picture(channels, dtype)
    step = overview_step((W, H), max_px)
    with open_source(pixels) as source:
        overview = source.overview(max_px)
    assert overview.shape == (-(-H // step), -(-W // step), channels)
    assert max(overview.shape[:2]) <= max_px
    for i, j in [
        (0, 0),
        (overview.shape[0] - 1, overview.shape[1] - 1),
        (overview.shape[0] // 2, overview.shape[1] // 3),
    ]:
        cell = pixels[i * step : (i + 1) * step, j * step : (j + 1) * step]
        assert np.array_equal(overview[i, j], np.floor(cell.mean(axis=(0, 1)) + 0.5))


def test_overview_of_a_slide_without_levels_reads_in_blocks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 256, (256, 256, 3), np.uint8) for _ in range(4)]
    shape = (6000, 7000, 3)
    options = {**RGB, "shape": shape, "dtype": np.uint8, "tile": (256, 256)}
    tifffile.imwrite(tmp_path / "a.tif", (tiles[i % 4] for i in range(24 * 28)), **options)
    with open_source(tmp_path / "a.tif") as source:
        assert source.metadata["openslide.vendor"] == "generic-tiff"
        tracemalloc.start()
        overview = source.overview(500)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        step = overview_step((7000, 6000), 500)
        block = source.read((1400, 2800), (step, step))
    assert peak < 30e6  # level 0 has 126 MB
    assert overview.shape == (429, 500, 3)
    assert np.array_equal(overview[2800 // step, 1400 // step], np.floor(block.mean(axis=(0, 1)) + 0.5))


def test_overview_uses_the_stored_levels(tmp_path: Path) -> None:
    """A pyramid whose reduced level is marked: what is read from it shows the mark."""
    level0 = np.full((1024, 2048, 3), 200, np.uint8)
    level1 = np.full((256, 512, 3), 100, np.uint8)
    level1[:, 256:] = 50
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(level0, tile=(256, 256), photometric="rgb", metadata=None)
        tiff.write(level1, tile=(256, 256), photometric="rgb", metadata=None, subfiletype=1)
    with open_source(tmp_path / "a.tif") as source:
        near, far = source.overview(1024), source.overview(100)
    assert (near == 200).all()
    assert far.shape == (49, 98, 3)
    assert (far[:, :48] == 100).all()
    assert (far[:, 49:] == 50).all()


# ---- real slides


def test_aperio_slide_through_openslide() -> None:
    with open_source(real("CMU-1-Small-Region.svs")) as source:
        assert (source.width, source.height, source.channels, source.bit_depth) == (2220, 2967, 3, 8)
        assert (source.mpp_um, source.mpp_source) == ((0.499, 0.499), "openslide")
        assert (source.objective_power, source.objective_source) == (20.0, "openslide")
        assert set(source.associated) == {"label", "macro", "thumbnail"}
        assert source.read_associated("thumbnail").shape == (768, 574, 3)
        with pytest.raises(UsageError, match="no associated image 'barcode'; it has: label, macro, thumbnail"):
            source.read_associated("barcode")
        with openslide.OpenSlide(real("CMU-1-Small-Region.svs")) as slide:
            expected = np.asarray(slide.read_region((700, 1500), 0, (300, 200)))[..., :3]
        assert np.array_equal(source.read((700, 1500), (300, 200)), expected)


def test_transparent_areas_show_the_background() -> None:
    """OpenSlide reports what was not scanned, here what lies beyond the slide, as transparent."""

    with openslide.OpenSlide(real("CMU-1-Small-Region.svs")) as slide:
        rgba = np.asarray(slide.read_region((2210, 2960), 0, (20, 14)))
    out = composite(rgba, (10, 20, 30))
    assert (out[7:] == (10, 20, 30)).all()
    assert (out[:, 10:] == (10, 20, 30)).all()
    assert np.array_equal(out[:7, :10], rgba[:7, :10, :3])


def test_strips_are_decoded_once_by_who_reads_in_squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However wide the slide: a strip is as wide, and as good as all of them lie under the next square too."""
    monkeypatch.setattr(source_tiff, "_CACHE_BYTES", 10_000)
    pixels = picture()
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", compression="lzw", rowsperstrip=8)
    decoded: list[int] = []
    read = source_tiff._SegmentCache.put

    def noted(self: Any, key: tuple[int, int], found: np.ndarray) -> None:
        decoded.append(key[1])
        read(self, key, found)

    monkeypatch.setattr(source_tiff._SegmentCache, "put", noted)
    with open_source(tmp_path / "a.tif") as source:
        for x in range(0, W - 64, 64):
            assert (source.read((x, 0), (64, H)) == pixels[:, x : x + 64]).all()
    assert sorted(decoded) == list(range(-(-H // 8)))


def test_a_profile_of_nothing_is_none(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(), photometric="rgb", iccprofile=b"")
    options = SimpleNamespace(keep_associated=())
    with open_source(tmp_path / "a.tif") as source:
        assert Sections.of(SimpleNamespace(source=source, options=options, l0_wh=(W, H))).icc is None  # type: ignore[arg-type]
