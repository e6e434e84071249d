"""Slide sources: wrong use and damaged files are named, and never give pixels that are not the slide's."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from inrwsi.errors import UsageError
from inrwsi.formats import source_image
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from tests.test_source import TIFFS, H, W, picture, planes, real, whole


@pytest.mark.parametrize("window", [((-1, 0), (5, 5)), ((0, 0), (0, 5)), ((W - 4, 0), (5, 5)), ((0, H), (1, 1))])
def test_windows_that_leave_the_slide_are_refused(window: tuple[tuple[int, int], tuple[int, int]]) -> None:
    with open_source(picture()) as source, pytest.raises(UsageError, match="is not inside the slide, 333x251"):
        source.read(*window)


def test_files_that_are_no_slides_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "magic.tif").write_bytes(b"II*\0")
    for name, reason in [
        ("none.svs", "no such file"),
        (".", "is a folder"),
        ("text.svs", "not an image"),
        ("empty.tif", "not an image"),
        ("magic.tif", "damaged|truncated"),
    ]:
        with pytest.raises(UsageError, match=reason) as caught:
            open_source(tmp_path / name)
        assert str(tmp_path) in str(caught.value)


def test_tiffs_that_are_not_one_picture_of_integers_are_refused(tmp_path: Path) -> None:
    stack = np.zeros((3, 64, 64), np.uint8)
    cases: list[tuple[np.ndarray, dict[str, Any], str]] = [
        (stack, {"ome": True, "metadata": {"axes": "ZYX"}}, "stack"),
        (stack, {"photometric": "minisblack", "tile": (32, 32)}, "stack"),
        (stack[0].astype(np.float32), {}, "float32"),
        (stack[0].astype(bool), {}, "1-bit"),
        (stack[0].astype(np.int16), {}, "int16"),
        (np.zeros((64, 64, 4), np.uint8), {"photometric": "separated"}, "SEPARATED"),
        (np.zeros((64, 64, 17), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "17 channels"),
    ]
    for pixels, options, reason in cases:
        tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
        with pytest.raises(UsageError, match=reason):
            open_source(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_truncated_tiffs_never_give_pixels(tmp_path: Path, kind: str, share: float) -> None:
    channels, dtype, planar, options = TIFFS[kind]
    pixels = picture(channels, dtype)
    stored = planes(pixels) if planar else (pixels[..., 0] if channels == 1 else pixels)
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(len(data) * share)])

    def read() -> None:
        with open_source(tmp_path / "a.tif") as source:
            whole(source)

    with pytest.raises(UsageError, match=r"a\.tif"):
        read()


def test_damaged_tiles_are_named_when_they_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", picture(3, np.uint16), photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[offset : offset + 40] = bytes(40)
    (tmp_path / "a.tif").write_bytes(data)
    with open_source(tmp_path / "a.tif") as source:
        with pytest.raises(UsageError, match="tile 0 cannot be decoded"):
            source.read((0, 0), (10, 10))
        assert source.read((64, 0), (64, 64)).shape == (64, 64, 3)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_pictures_are_refused(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, "PNG" if suffix == "png" else "JPEG")
    (tmp_path / f"a.{suffix}").write_bytes(buffer.getvalue()[:-3000])
    with pytest.raises(UsageError, match="damaged or incomplete"):
        open_source(tmp_path / f"a.{suffix}")


def test_pictures_too_large_to_hold_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    Image.fromarray(picture()).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 50_000)
    data[29:33] = struct.pack(">I", imagecodecs.zlib_crc32(bytes(data[12:29])))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UsageError, match=r"60000x50000 pixels are too many.*tiled TIFF"):
        open_source(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


def png(wh: tuple[int, int], rows: bytes) -> bytes:
    """Of 8 bits RGB, with these rows, each after its filter's number."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", *wh, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_picture_that_cannot_be_in_its_bytes_is_refused(tmp_path: Path) -> None:
    """Whoever believed it would ask for 6 GB."""
    (tmp_path / "a.png").write_bytes(png((46000, 46000), b""))
    with pytest.raises(UsageError, match=r"46000x46000 pixels cannot be in its \d\d bytes; the file is damaged"):
        open_source(tmp_path / "a.png")


def test_a_picture_that_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 2)).save(tmp_path / "a.jpg")

    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(source_image, "_to_array", full)
    with pytest.raises(UsageError, match=r"a\.jpg: does not fit in memory.*convert it to a tiled TIFF"):
        open_source(tmp_path / "a.jpg")


def test_a_picture_whose_rows_end_early_is_refused(tmp_path: Path) -> None:
    row = b"\0" + bytes(range(90))
    (tmp_path / "a.png").write_bytes(png((30, 20), row * 20))
    with open_source(tmp_path / "a.png") as source:
        assert source.read((0, 19), (30, 1)).tobytes() == row[1:]
    (tmp_path / "a.png").write_bytes(png((30, 20), row * 8))
    with pytest.raises(UsageError, match=r"a\.png: cannot be decoded .*damaged or incomplete"):
        open_source(tmp_path / "a.png")


def test_pipes_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slide.svs")
    os.mkfifo(tmp_path / "slide.cinr")
    with pytest.raises(UsageError, match=r"slide\.svs: is a pipe or device; .* save it to a file"):
        open_source(tmp_path / "slide.svs")
    with pytest.raises(UsageError, match=r"slide\.cinr: is a pipe or device; .* save it to a file"):
        Container.open(tmp_path / "slide.cinr")


@pytest.mark.parametrize("orientation", range(2, 9))
def test_tiled_colour_that_is_to_be_turned_is_refused(tmp_path: Path, orientation: int) -> None:
    """OpenSlide opens it, and turns each tile where it lies."""
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((70, 50, 3), np.uint8), photometric="rgb", tile=(32, 32), extratags=tag
    )
    assert openslide.OpenSlide.detect_format(tmp_path / "a.tif") == "generic-tiff"
    with pytest.raises(UsageError, match=rf"is to be turned when it is shown \(orientation {orientation}\)"):
        open_source(tmp_path / "a.tif")


def test_tags_of_other_types_say_nothing(tmp_path: Path) -> None:
    """Resolutions that are no fractions, a unit in letters, a profile in text: as if they were not there."""
    pixels, stated = np.zeros((40, 30, 3), np.uint8), {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    profile = [(34675, 2, 9, "a profile", True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None, **stated, extratags=profile)
    with open_source(tmp_path / "a.tif") as source:
        assert (source.mpp_um, source.icc) == (pytest.approx((0.5, 0.5)), None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        at = {name: tiff.pages[0].tags[name].offset for name in ("XResolution", "YResolution", "ResolutionUnit")}
    raw = (tmp_path / "a.tif").read_bytes()
    for names, entry in (
        (("XResolution", "YResolution"), struct.pack("<HIf", 11, 1, 20000.0)),
        (("XResolution", "YResolution"), struct.pack("<HII", 4, 1, 20000)),
        (("ResolutionUnit",), struct.pack("<HI4s", 2, 4, b"cm")),
    ):
        changed = bytearray(raw)
        for name in names:
            changed[at[name] + 2 : at[name] + 12] = entry
        (tmp_path / "b.tif").write_bytes(changed)
        with open_source(tmp_path / "b.tif") as source:
            assert source.mpp_um is None


@pytest.mark.parametrize(("colour", "clear"), [(2, 6), (0, 2)])
def test_sixteen_bits_with_a_transparent_colour_are_refused(tmp_path: Path, colour: int, clear: int) -> None:
    """Pillow would keep the upper 8 of them, and the decoder of 16 knows of no such colour."""
    png = imagecodecs.png_encode(np.zeros((9, 8, 3) if colour else (9, 8), np.uint16))
    chunk = b"tRNS" + bytes(clear)
    said = struct.pack(">I", clear) + chunk + struct.pack(">I", imagecodecs.zlib_crc32(chunk))
    (tmp_path / "a.png").write_bytes(png[:33] + said + png[33:])
    with pytest.raises(UsageError, match=r"a\.png: has 16 bits and a colour that stands for transparent; save it"):
        open_source(tmp_path / "a.png")


def test_tiffs_that_are_to_be_turned_are_refused(tmp_path: Path) -> None:
    deep = np.zeros((40, 30), np.uint16)
    for orientation in (1, 6):
        tifffile.imwrite(tmp_path / "a.tif", deep, extratags=[(274, "H", 1, orientation, True)])
        if orientation == 1:
            with open_source(tmp_path / "a.tif") as source:
                assert (source.width, source.height) == (30, 40)
    with pytest.raises(UsageError, match=r"is to be turned when it is shown \(orientation 6\); save it upright"):
        open_source(tmp_path / "a.tif")


def test_a_truncated_aperio_slide_is_not_read_as_something_less(tmp_path: Path) -> None:
    data = real("CMU-1-Small-Region.svs").read_bytes()
    for share in (0.5, 0.95):
        (tmp_path / "a.svs").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UsageError, match=r"a\.svs.*truncated"):
            open_source(tmp_path / "a.svs")
