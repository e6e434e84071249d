"""Picture writers: pixels against independent readers, memory, and nothing left behind on failure."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from inrwsi.errors import UsageError
from inrwsi.formats.output import open_writer
from inrwsi.formats.source import open_source

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MPP = (0.499, 0.25)


def picture(h: int, w: int, channels: int = 3, seed: int = 1) -> np.ndarray:
    """Smooth shapes with noise, so that JPEG has low and high frequencies to code."""
    rng = np.random.default_rng(seed)
    y, x, c = np.ogrid[:h, :w, :channels]
    waves = 128 + 90 * np.sin(x / 37 + c) * np.cos(y / (23 + 5 * c))
    return np.clip(waves + rng.normal(0, 12, (h, w, channels)), 0, 255).astype(np.uint8)


def write(path: Path, pixels: np.ndarray, step: int | None = None, quality: int = 90, icc: bytes | None = ICC) -> None:
    h, w, channels = pixels.shape
    with open_writer(path, (w, h), channels, mpp_um=MPP, icc=icc, quality=quality) as writer:
        rows = step or writer.strip_rows
        for top in range(0, h, rows):
            writer.write(pixels[top : top + rows])


def through_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def facts(path: Path) -> dict[Any, Any]:
    with Image.open(path) as image:
        return dict(image.info)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("step", [None, 97])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (256, 300), (777, 531)])
def test_png_and_tiff_are_lossless_for_other_readers(
    tmp_path: Path, channels: int, step: int | None, h: int, w: int
) -> None:
    pixels = picture(h, w, channels)
    write(tmp_path / "a.png", pixels, step)
    write(tmp_path / "a.tif", pixels, step)
    flat = pixels if channels == 3 else pixels[..., 0]
    assert np.array_equal(through_pillow(tmp_path / "a.png"), flat)
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), flat)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), flat)
    assert np.array_equal(through_pillow(tmp_path / "a.tif"), flat)  # through libtiff
    assert leftovers(tmp_path) == ["a.png", "a.tif"]


def test_png_states_size_and_profile(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(40, 50))
    data = (tmp_path / "a.png").read_bytes()
    at = data.index(b"pHYs")
    assert struct.unpack_from(">IIB", data, at + 4) == (2004008, 4000000, 1)
    assert struct.unpack_from(">I", data, at + 13)[0] == zlib.crc32(data[at : at + 13])
    assert facts(tmp_path / "a.png")["icc_profile"] == ICC


def test_png_size_is_near_that_of_libpng(tmp_path: Path) -> None:
    pixels = picture(600, 800)
    write(tmp_path / "a.png", pixels, icc=None)
    assert (tmp_path / "a.png").stat().st_size < 1.03 * len(imagecodecs.png_encode(pixels))


def test_tiff_is_tiled_deflate_and_opens_as_a_slide(tmp_path: Path) -> None:
    pixels = picture(700, 1100)
    write(tmp_path / "a.tiff", pixels)
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        page = tiff.pages[0]
        assert (page.tilewidth, page.tilelength, page.compression.name, page.predictor) == (
            512,
            512,
            "ADOBE_DEFLATE",
            2,
        )
        assert (page.tags["ResolutionUnit"].value, page.tags[34675].value) == (3, ICC)
        assert not tiff.is_bigtiff
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.499, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25, rel=1e-6)
        assert np.array_equal(
            np.asarray(slide.read_region((500, 300), 0, (200, 150)))[..., :3], pixels[300:450, 500:700]
        )


def test_tiff_holds_many_channels(tmp_path: Path) -> None:
    pixels = picture(90, 70, 5)
    write(tmp_path / "a.tif", pixels)
    assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("h", "w", "quality"), [(1, 1, 90), (256, 64, 90), (1003, 517, 75), (2600, 24, 97)])
def test_jpeg_equals_one_encoding_of_the_whole(tmp_path: Path, channels: int, h: int, w: int, quality: int) -> None:
    """Bit for bit, in libjpeg-turbo through Pillow and through imagecodecs; over eight restarts for the tall one."""
    pixels = picture(h, w, channels)
    flat = pixels if channels == 3 else pixels[..., 0]
    write(tmp_path / "a.jpg", pixels, step=100, quality=quality)
    Image.fromarray(flat).save(tmp_path / "whole.jpg", quality=quality, subsampling=0)
    expected = through_pillow(tmp_path / "whole.jpg")
    assert np.array_equal(through_pillow(tmp_path / "a.jpg"), expected)
    data = (tmp_path / "a.jpg").read_bytes()
    assert np.array_equal(
        imagecodecs.jpeg8_decode(data), imagecodecs.jpeg8_decode((tmp_path / "whole.jpg").read_bytes())
    )


def test_jpeg_inside_a_tiff_is_read_by_libtiff_alike(tmp_path: Path) -> None:
    pixels = picture(1003, 517)
    write(tmp_path / "a.jpg", pixels)
    data = (tmp_path / "a.jpg").read_bytes()
    body = data + b"\0" * (len(data) % 2)
    longs = {256: 517, 257: 1003, 259: 7, 262: 6, 273: 8, 277: 3, 278: 1003, 279: len(data)}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in longs.items()}
    entries[258] = struct.pack("<HHII", 258, 3, 1, 8)
    entries[530] = struct.pack("<HHIHH", 530, 3, 2, 1, 1)  # no chroma subsampling
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory)
    with Image.open(tmp_path / "a.tif") as image:
        through_libtiff = np.asarray(image.convert("RGB"))
    assert np.array_equal(through_libtiff, through_pillow(tmp_path / "a.jpg"))


def test_jpeg_of_the_greatest_width_has_a_legal_restart_interval(tmp_path: Path) -> None:
    pixels = np.repeat(picture(300, 97), 676, axis=1)[:, :65500]
    write(tmp_path / "a.jpg", pixels, icc=None)
    data = (tmp_path / "a.jpg").read_bytes()
    at = data.index(b"\xff\xdd")
    assert struct.unpack_from(">HH", data, at + 2) == (4, 8 * 8188)
    error = through_pillow(tmp_path / "a.jpg").astype(int)[250:, -999:] - pixels[250:, -999:]
    assert np.abs(error).mean() < 4


def test_jpeg_states_size_and_profile_in_parts(tmp_path: Path) -> None:
    large = ICC + bytes(200_000)
    write(tmp_path / "a.jpg", picture(20, 30), icc=large)
    info = facts(tmp_path / "a.jpg")
    assert info["icc_profile"] == large
    assert (info["jfif_unit"], info["jfif_density"]) == (2, (20040, 40000))
    with open_writer(tmp_path / "b.jpg", (8, 8), 3, mpp_um=(0.1, 0.1), icc=None) as writer:
        writer.write(picture(8, 8))
    assert facts(tmp_path / "b.jpg")["jfif_unit"] == 0  # 100,000 dots a centimetre do not fit 16 bits


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_and_the_old_file_stays_when_interrupted(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    target = tmp_path / f"a{suffix}"
    target.write_bytes(b"before")

    def interrupted() -> None:
        with open_writer(target, (100, 2400), 3, mpp_um=None, icc=None) as writer:
            writer.write(picture(1200, 100))
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_bytes() == b"before"
    assert leftovers(tmp_path) == [target.name]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_missing_and_surplus_rows_are_refused(tmp_path: Path, suffix: str) -> None:
    with (
        pytest.raises(UsageError, match="30 of 40 rows"),
        open_writer(tmp_path / f"a{suffix}", (20, 40), 3, mpp_um=None, icc=None) as writer,
    ):
        writer.write(picture(30, 20))
    with (
        pytest.raises(UsageError, match="41 rows for a picture of 40"),
        open_writer(tmp_path / f"a{suffix}", (20, 40), 3, mpp_um=None, icc=None) as writer,
    ):
        writer.write(picture(41, 20))
    with (
        pytest.raises(UsageError, match=r"must be uint8 \(rows, 20, 3\)"),
        open_writer(tmp_path / f"a{suffix}", (20, 40), 3, mpp_um=None, icc=None) as writer,
    ):
        writer.write(picture(10, 21))
    assert leftovers(tmp_path) == []


def test_a_full_disk_is_reported_from_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile.TiffWriter, "write", no_space)
    with pytest.raises(UsageError, match=r"a\.tif: cannot be written \(No space left"):
        write(tmp_path / "a.tif", picture(6000, 60))
    assert leftovers(tmp_path) == []


def test_impossible_pictures_are_refused_before_a_file_is_made(tmp_path: Path) -> None:
    def attempt(name: str, wh: tuple[int, int] = (8, 8), channels: int = 3, quality: int = 90) -> None:
        with open_writer(tmp_path / name, wh, channels, mpp_um=None, icc=None, quality=quality):
            pass

    with pytest.raises(UsageError, match=r"\.png, \.tif, \.tiff, \.jpg or \.jpeg"):
        attempt("a.bmp")
    with pytest.raises(UsageError, match="65500 a side"):
        attempt("a.jpg", wh=(65501, 8))
    with pytest.raises(UsageError, match="4 channels of 8 bits; write"):
        attempt("a.png", channels=4)
    with pytest.raises(UsageError, match="quality 101"):
        attempt("a.jpeg", quality=101)
    with pytest.raises(UsageError, match="cannot be written"):
        attempt("none/a.png")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(("suffix", "limit_mb"), [(".png", 8), (".tif", 32), (".jpg", 8)])
def test_memory_does_not_grow_with_height(tmp_path: Path, suffix: str, limit_mb: int) -> None:
    strip = np.random.default_rng(4).integers(0, 256, (256, 1000, 3), np.uint8)  # noise is quick to deflate
    tracemalloc.start()
    try:
        with open_writer(tmp_path / f"a{suffix}", (1000, 30_000), 3, mpp_um=None, icc=None) as writer:
            for top in range(0, 30_000, 256):
                writer.write(strip[: min(256, 30_000 - top)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_mb * 1e6  # the picture has 90 MB
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.size == (1000, 30_000)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 16])
def test_pictures_of_16_bits_come_back(tmp_path: Path, channels: int) -> None:
    """In strips that are no multiple of a tile, and by our own source: a fourth channel is no alpha."""
    drawn = np.random.default_rng(channels)
    pixels = drawn.integers(0, 65536, (700, 33, channels)).astype(np.uint16)
    names = ("a.tif", "a.png") if channels in (1, 3) else ("a.tif",)
    for name in names:
        with open_writer(tmp_path / name, (33, 700), channels, mpp_um=(0.5, 0.5), icc=None, bit_depth=16) as writer:
            writer.write(pixels[:201])
            writer.write(pixels[201:])
        with open_source(tmp_path / name) as source:
            assert (source.channels, source.bit_depth) == (channels, 16)
            assert np.array_equal(source.read((0, 0), (33, 700)), pixels)
    with (
        pytest.raises(UsageError, match=rf"a .jpg file cannot hold {channels} channels? of 16 bits; write .tif"),
        open_writer(tmp_path / "a.jpg", (33, 700), channels, mpp_um=None, icc=None, bit_depth=16),
    ):
        pass
    with (
        pytest.raises(UsageError, match=r"a strip must be uint16 \(rows, 33, "),
        open_writer(tmp_path / "b.tif", (33, 700), channels, mpp_um=None, icc=None, bit_depth=16) as writer,
    ):
        writer.write(pixels.astype(np.uint8))
    assert {p.name for p in tmp_path.iterdir()} == set(names)
