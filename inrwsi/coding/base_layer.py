"""The base layer of a tile: its pixels in a classic codec, which the field then corrects.

What is chosen decodes in integers where the codec has that: JPEG with its integer DCT and full colour, JPEG 2000 with
the reversible 5/3 wavelet, cut off. JPEG XL computes in floats; another version of its library may round a sample
otherwise, and the picture is then off by that. The codecs are imported where they are used: networks are trained on
machines that lack them.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

KINDS = ("jpeg", "jpegxl", "jpeg2000")
_J2K_BEGIN = b"\xff\x4f\xff\x51"  # SOC, and SIZ, which comes next
_SIZ = struct.Struct(">4sHH4I4IH")
_JPEG_BEGIN, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, with Huffman coding
_SOF = struct.Struct(">HBHHB")


def encode(kind: str, pixels: np.ndarray, quality: float) -> bytes:
    """A tile's base layer.

    Args:
        kind: one of `KINDS`.
        pixels: (h, w, 1 or 3) uint8.
        quality: of jpeg and jpegxl, 1 to 100; of jpeg2000 the PSNR to aim at, in dB.
    """
    import imagecodecs

    flat = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    level: Any = quality  # libraries take parts of a level that their annotations do not know of
    if kind == "jpeg":
        data = imagecodecs.jpeg8_encode(flat, level=round(quality), subsampling="444", optimize=True)
    elif kind == "jpegxl":
        data = imagecodecs.jpegxl_encode(flat, level=level)
    else:
        data = imagecodecs.jpeg2k_encode(flat, level=level, reversible=True, codecformat="j2k")
    return bytes(data)


def decode(kind: str, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """The pixels of a base layer, (h, w, channels) uint8.

    Raises:
        ValueError: it is damaged, or not a picture of that shape.
    """
    import imagecodecs

    # With a buffer of its own size given, a picture that claims another one is an error and not an allocation; of JPEG
    # 2000 it is both, so that is looked at before. And libjpeg decodes what is cut off, and OpenJPEG another depth.
    claimed = {"jpeg": _jpeg_picture, "jpeg2000": _j2k_picture}
    if kind in claimed and claimed[kind](data) != _Picture(shape, 8, subsampled=False):
        h, w, channels = shape
        raise ValueError(
            f"the {kind} base layer does not decode (it is no whole picture of {w} x {h} pixels with {channels} "
            "components of 8 bits, none of them subsampled)"
        )
    out = np.empty(shape if shape[2] > 1 else shape[:2], np.uint8)
    try:
        if kind == "jpeg":
            imagecodecs.jpeg8_decode(data, out=out)
        elif kind == "jpegxl":
            imagecodecs.jpegxl_decode(data, out=out)
        else:
            imagecodecs.jpeg2k_decode(data, out=out)
        return out.reshape(shape)
    except (RuntimeError, ValueError) as error:  # the codecs' own errors are of the former
        raise ValueError(f"the {kind} base layer does not decode ({str(error)[:80]})") from None


class _Picture(NamedTuple):
    """What a codestream says that it is; `shape` is (h, w, channels)."""

    shape: tuple[int, int, int]
    depth: int
    subsampled: bool


def _j2k_picture(data: bytes) -> _Picture | None:
    """Of a JPEG 2000 codestream (ITU-T T.800, A.5.1); None where it begins as none does."""
    if len(data) < _SIZ.size or not data.startswith(_J2K_BEGIN):
        return None
    _, _, _, width, height, left, top, *_, channels = _SIZ.unpack_from(data)
    components = data[_SIZ.size : _SIZ.size + 3 * channels]  # depth less 1, and the distances of samples
    if len(components) != 3 * channels or len({*components[::3]}) != 1:
        return None
    subsampled = {*components[1::3], *components[2::3]} != {1}
    return _Picture((height - top, width - left, channels), components[0] + 1, subsampled)


def _jpeg_picture(data: bytes) -> _Picture | None:
    """Of a JPEG (ITU-T T.81, B.1 and B.2.2); None where it has no frame, or ends before its end."""
    if not (data.startswith(_JPEG_BEGIN) and data.endswith(_JPEG_END)):
        return None
    at = len(_JPEG_BEGIN)
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if kind in _JPEG_FRAMES:
            _, depth, height, width, channels = _SOF.unpack_from(data[at + 2 :].ljust(_SOF.size, b"\0"))
            factors = {*data[at + 11 : at + 10 + 3 * channels : 3]}  # of each component, horizontal and vertical
            return _Picture((height, width, channels), depth, factors not in ({0x11}, set()) and channels > 1)
        at += 2 + length
    return None


def software(kind: str) -> dict[str, str]:
    """Name and version of what codes it, for a header."""
    import imagecodecs

    version = {"jpeg": imagecodecs.jpeg8_version, "jpegxl": imagecodecs.jpegxl_version}
    name, _, number = version.get(kind, imagecodecs.jpeg2k_version)().partition(" ")
    return {name: number}


def residual(pixels: np.ndarray, base: np.ndarray) -> np.ndarray:
    """What the field is fitted to, uint8: 128 where the base is right; beyond -128 and 127 it saturates."""
    return (pixels.astype(np.int16) - base + 128).clip(0, 255).astype(np.uint8)


def corrected(base: np.ndarray, field: np.ndarray) -> np.ndarray:
    """The pixels: the base plus what the field's samples say it lacks; both (h, w, channels) uint8."""
    return (base.astype(np.int16) + field - 128).clip(0, 255).astype(np.uint8)


def between(base: np.ndarray, xy: tuple[int, int], wh: tuple[int, int], finer: int) -> np.ndarray:
    """A block of the base at `finer` samples a pixel: linear between the pixels' centres, in integers.

    Beyond the tile's outermost centres it stays as it is there.

    Args:
        xy, wh: the block's corner and size in pixels of the tile.

    Returns:
        (h * finer, w * finer, channels) uint8.
    """
    if finer == 1:
        return base[xy[1] : xy[1] + wh[1], xy[0] : xy[0] + wh[0]]
    (y, y_next, wy), (x, x_next, wx) = (
        _neighbours(start, count, finer, length)
        for start, count, length in zip(xy[::-1], wh[::-1], base.shape[:2], strict=True)
    )
    whole = 2 * finer
    rows = base[y].astype(np.int64) * (whole - wy)[:, None, None] + base[y_next] * wy[:, None, None]
    sums = rows[:, x] * (whole - wx)[:, None] + rows[:, x_next] * wx[:, None]
    return ((sums + whole * whole // 2) // (whole * whole)).astype(np.uint8)


def _neighbours(start: int, count: int, finer: int, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each sample along an axis the two pixels about it, and the weight of the second in 1 / (2 finer)."""
    at = 2 * np.arange(start * finer, (start + count) * finer, dtype=np.int64) + 1 - finer
    first, weight = at // (2 * finer), at % (2 * finer)
    return first.clip(0, length - 1), (first + 1).clip(0, length - 1), weight
