"""Slides that are held whole in memory: PNG, JPEG and other pictures through Pillow, and numpy arrays."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from inrwsi.errors import UsageError
from inrwsi.formats.metadata import plausible_mpp
from inrwsi.formats.source_base import MAX_CHANNELS, BaseSource, Facts, Scale, composite, default_background

MAX_IMAGE_PX = 2**31
MOST_DEFLATED = 1032  # bytes of one
_ORIENTATION = 274  # EXIF's and TIFF's tag
_ON_THEIR_SIDES = (5, 6, 7, 8)
_pillow_limit = threading.Lock()


class ArraySource(BaseSource):
    """A numpy array as a slide: (H, W) or (H, W, C) with up to 16 channels, uint8 or uint16. It is not copied.

    Four channels are four channels: an alpha channel is the caller's to composite.
    """

    def __init__(self, pixels: np.ndarray, facts: Facts | None = None) -> None:
        name = facts.name if facts else "array"
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if pixels.ndim != 3 or pixels.size == 0 or pixels.shape[2] > MAX_CHANNELS:
            raise UsageError(
                f"{name}: shape {pixels.shape} is not a picture; give (H, W) or (H, W, C), C 1 to {MAX_CHANNELS}"
            )
        if pixels.dtype not in (np.uint8, np.uint16):
            raise UsageError(f"{name}: pixels are {pixels.dtype}; give uint8 or uint16")
        super().__init__(facts or array_facts(name, pixels))
        self._pixels = pixels

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        return self._pixels[y : y + h, x : x + w].copy()


def array_facts(
    name: str,
    pixels: np.ndarray,
    *,
    scale: Scale | None = None,
    icc: bytes | None = None,
    bytes_on_disk: int | None = None,
) -> Facts:
    """Facts of (H, W, C) pixels; without a file they weigh what the array weighs."""
    height, width, channels = pixels.shape
    bit_depth = pixels.dtype.itemsize * 8
    return Facts(
        name=name,
        width=width,
        height=height,
        channels=channels,
        bit_depth=bit_depth,
        background=default_background(channels, bit_depth),
        scale=scale or Scale(),
        icc=icc,
        bytes_on_disk=pixels.nbytes if bytes_on_disk is None else bytes_on_disk,
    )


def open_image(path: Path) -> ArraySource:
    """A picture that Pillow reads, loaded whole. UsageError if it is none, is damaged, or has over 2^31 pixels."""
    with _readable(path) as image:
        scale, icc = _scale(image), image.info.get("icc_profile")
        # Viewers turn a picture by its EXIF tag; the tag is not carried, so the pixels have to be turned here.
        if _is_plain_png(path, image):
            pixels = _turned(_png(path), image.getexif().get(_ORIENTATION, 1))
        else:
            pixels = _to_array(path, ImageOps.exif_transpose(image))
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            icc = None  # the profile described the pixels before they became RGB
    size = path.stat().st_size
    return ArraySource(pixels, array_facts(path.name, pixels, scale=scale, icc=icc, bytes_on_disk=size))


def image_wh(path: Path) -> tuple[int, int]:
    """Size of a picture as it is to be shown, without its pixels. UsageError if it is none that can be loaded."""
    with _readable(path) as image:
        (width, height), turned = image.size, image.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDES
    return (height, width) if turned else (width, height)


@contextmanager
def _readable(path: Path) -> Iterator[Image.Image]:
    """An open picture that is not too large; what goes wrong with it from there on is said in a sentence."""
    try:
        with _large_pictures_allowed(), Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PX:
                raise UsageError(
                    f"{path}: {width}x{height} pixels are too many for a {image.format} file, which is loaded whole; "
                    "convert it to a tiled TIFF"
                )
            # Deflate packs a byte into no less than a bit and a fraction, and no pixel has less than a bit.
            if image.format == "PNG" and width * height > 8 * MOST_DEFLATED * path.stat().st_size:
                raise UsageError(
                    f"{path}: {width}x{height} pixels cannot be in its {path.stat().st_size} bytes; the file is damaged"
                )
            yield image
    except MemoryError:
        raise UsageError(
            f"{path}: does not fit in memory, and this kind of file is loaded whole; convert it to a tiled TIFF"
        ) from None
    except UnidentifiedImageError as error:
        raise UsageError(
            f"{path}: not an image that can be read; give a slide that OpenSlide opens, a TIFF, a PNG or a JPEG"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError, imagecodecs.PngError) as error:
        raise UsageError(f"{path}: cannot be decoded ({error}); the file is damaged or incomplete") from error


@contextmanager
def _large_pictures_allowed() -> Iterator[None]:
    """Pillow's guard against decompression bombs is one number for the whole process, and set for photographs."""
    with _pillow_limit:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _is_plain_png(path: Path, image: Image.Image) -> bool:
    """Whether this is a PNG of 8 or 16 bits without a palette.

    Of 16 with colour Pillow would keep the upper 8 bits only, and of rows that end early it says nothing. UsageError
    of 16 where one colour stands for transparent: the decoder of those knows of none.
    """
    if image.format != "PNG":
        return False
    with open(path, "rb") as file:
        depth, colour = file.read(26)[24:26]
    if "transparency" in image.info:
        if depth == 16:
            raise UsageError(f"{path}: has 16 bits and a colour that stands for transparent; save it without that")
        return False
    return depth in (8, 16) and colour != 3


def _png(path: Path) -> np.ndarray:
    """(H, W, C) uint8 or uint16, alpha composited over white."""
    pixels = imagecodecs.png_decode(path.read_bytes())
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.shape[2] in (2, 4):
        return composite(pixels, (np.iinfo(pixels.dtype).max,) * (pixels.shape[2] - 1))
    return pixels


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, c) as its EXIF orientation says that it is to be shown (TIFF 6.0, section 8)."""
    if orientation in _ON_THEIR_SIDES:
        pixels = pixels.transpose(1, 0, 2)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::down, ::right])


def _to_array(path: Path, image: Image.Image) -> np.ndarray:
    """(H, W, C) of any mode of Pillow: grey stays grey, the rest becomes RGB, alpha is composited over white."""
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise UsageError(f"{path}: pixels are 32-bit integers; save it with 8 or 16 bits")
        return pixels.astype(np.uint16)[..., None]
    if image.mode == "F":
        raise UsageError(f"{path}: pixels are floating-point numbers; save it with 8 or 16 bits")
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("LA" if grey else "RGBA"))
        return composite(pixels, (255,) * (pixels.shape[2] - 1))
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def _scale(image: Image.Image) -> Scale:
    """The pixel size that a PNG or JPEG states, if a microscope could have made it: most say 72 or 96 dpi."""
    info = image.info
    if image.format == "JPEG" and info.get("jfif_unit") in (1, 2):
        per_unit_um = 25400.0 if info["jfif_unit"] == 1 else 10000.0
        dots, source = info["jfif_density"], "jpeg-density"
    elif image.format == "PNG" and "dpi" in info:
        per_unit_um, dots, source = 25400.0, info["dpi"], "png-phys"
    else:
        return Scale()
    x, y = (per_unit_um / d if d else None for d in dots)
    mpp = plausible_mpp(*((y, x) if image.getexif().get(_ORIENTATION, 1) in _ON_THEIR_SIDES else (x, y)))
    return Scale(mpp_um=mpp, mpp_source=source) if mpp else Scale()
