"""Pictures out: PNG, TIFF or JPEG by suffix, streamed in strips."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from inrwsi.errors import UsageError
from inrwsi.formats.output_base import PictureSpec, RegionWriter
from inrwsi.formats.output_jpeg import JpegWriter
from inrwsi.formats.output_png import PngWriter
from inrwsi.formats.output_tiff import TiffWriter

__all__ = ["RegionWriter", "open_writer"]


def open_writer(
    path: str | PathLike[str],
    wh: tuple[int, int],
    channels: int,
    *,
    mpp_um: tuple[float, float] | None,
    icc: bytes | None,
    quality: int = 90,
    bit_depth: int = 8,
) -> RegionWriter:
    """A writer for one picture of `wh` pixels, uint8 or uint16, by the suffix of `path`.

    Args:
        mpp_um: micrometres a pixel (x, y), written as the resolution; JFIF has room from 0.153 um on.
        icc: raw ICC profile.
        quality: of JPEG, 1 to 100; the other formats are lossless.
        bit_depth: 8 or 16, which JPEG does not have.

    Raises:
        UsageError: the suffix is none of .png .tif .tiff .jpg .jpeg, or the format cannot hold such a picture.
    """
    path = Path(path)
    spec = PictureSpec(wh, channels, mpp_um, icc, bit_depth)
    suffix = path.suffix.lower()
    if suffix in JpegWriter.suffixes:
        return JpegWriter(path, spec, quality)
    for writer in (PngWriter, TiffWriter):
        if suffix in writer.suffixes:
            return writer(path, spec)
    raise UsageError(f"{path}: the name must end in .png, .tif, .tiff, .jpg or .jpeg; that decides the format")
