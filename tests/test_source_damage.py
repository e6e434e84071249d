"""Slide sources: wrong use and damaged files are named, and never give pixels that are not the slide's."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from inrwsi.errors import UsageError
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


def test_a_truncated_aperio_slide_is_not_read_as_something_less(tmp_path: Path) -> None:
    data = real("CMU-1-Small-Region.svs").read_bytes()
    for share in (0.5, 0.95):
        (tmp_path / "a.svs").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(UsageError, match=r"a\.svs.*truncated"):
            open_source(tmp_path / "a.svs")
