"""The pictures of a report: crops beside each other at equal bits, what differs in them, and where the bits went.

All are handed over as arrays and leave as `data:` addresses. Crops and differences are stored without loss: a page
that judges codecs must not add the marks of another.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np

from inrwsi.errors import UsageError
from inrwsi.formats.container import Container

CROP_PX = 192
DIFFERENCE_GAIN = 6
MAP_PX = 640  # longest side of the map of bits
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# Dark blue over green to yellow, each lighter than the one before, so that it also reads without colour.
_RAMP = np.array([(46, 13, 80), (60, 80, 139), (33, 145, 140), (122, 205, 82), (253, 231, 37)], np.float64)
_MAP_WEIGHT = 0.72  # of the ramp over the grey slide
_PERCENTILE = 99.0  # of the rates, where the ramp ends: a single dear chunk must not darken the rest


@dataclass(frozen=True)
class Decoded:
    """One codec's view of a crop: what was decoded from its file at `setting`.

    Attributes:
        bpp, psnr_db: of the measured pixels as a whole, not of the crop; `psnr_db` is None without any error.
        pixels: (H, W, 3) uint8 RGB.
    """

    codec: str
    layout: str
    setting: str
    bpp: float
    psnr_db: float | None
    pixels: np.ndarray


@dataclass(frozen=True)
class Crop:
    """A piece of the measured pixels and what became of it. All arrays (H, W, 3) uint8 RGB of one shape."""

    name: str
    original: np.ndarray
    decoded: tuple[Decoded, ...]

    def __post_init__(self) -> None:
        for pixels in (self.original, *(d.pixels for d in self.decoded)):
            if pixels.shape != self.original.shape or pixels.ndim != 3 or pixels.dtype != np.uint8:
                raise UsageError(
                    f"crop {self.name}: pictures must be uint8 (H, W, 3) of one shape; this is {pixels.dtype} "
                    f"{pixels.shape} beside {self.original.shape}"
                )


@dataclass(frozen=True)
class OctaveBytes:
    """Bytes of one octave's chunks. `chunk_bytes` is (rows, columns) int64; blank ones have 0."""

    octave: int
    chunk_l0_px: int
    chunk_bytes: np.ndarray
    blank_chunks: int


@dataclass(frozen=True)
class ByteMap:
    """Where the bytes of one `.cinr` file went.

    Attributes:
        file: its name, without folders.
        l0_wh: size of the slide in level-0 pixels.
        overview: (h, w, 3) uint8 RGB, the whole slide, drawn under the map.
        octaves: finest first.
        section_bytes: stored bytes by kind of section (weights, header, ...).
        file_bytes: all of it; what is in no chunk and no section is index.
    """

    file: str
    l0_wh: tuple[int, int]
    overview: np.ndarray
    octaves: tuple[OctaveBytes, ...]
    section_bytes: dict[str, int]
    file_bytes: int


@dataclass(frozen=True)
class Pictures:
    """Everything of a report that is no number. Any of it may be missing."""

    crops: tuple[Crop, ...] = ()
    byte_map: ByteMap | None = None


def byte_map(container: Container, overview: np.ndarray) -> ByteMap:
    """Read the index of an open file (no pixel of it is decoded).

    Args:
        overview: (h, w, 3) uint8 RGB of the whole slide, of any size.

    Raises:
        CorruptFile: INDEX.
    """
    header = container.header
    octaves = []
    for octave in header.grid.octaves:
        columns, rows = header.grid_wh(octave)
        entries = list(container.entries(octave))
        sizes = np.array([e.payload_bytes for e in entries], np.int64).reshape(rows, columns)
        blank = sum(e.is_blank for e in entries)
        octaves.append(OctaveBytes(octave, header.grid.chunk_px << octave, sizes, blank))
    sections: dict[str, int] = {}
    for kind, _, stored_bytes, _ in container.sections():
        sections[kind] = sections.get(kind, 0) + stored_bytes
    name = container.path.replace("\\", "/").rsplit("/", 1)[-1]
    return ByteMap(name, header.slide.l0_wh, overview, tuple(octaves), sections, container.file_bytes)


def rate_map(where: ByteMap, map_wh: tuple[int, int]) -> np.ndarray:
    """Bits a level-0 pixel at each cell, (h, w) float64: every octave's chunk spread evenly over the pixels it covers.

    Times the pixels of a cell and summed it is 8 x the bytes of all chunks, up to what cells cut at chunk borders.
    """
    map_w, map_h = map_wh
    width, height = where.l0_wh
    # Centres of the cells, in level-0 pixels.
    xs = (2 * np.arange(map_w) + 1) * width // (2 * map_w)
    ys = (2 * np.arange(map_h) + 1) * height // (2 * map_h)
    rates = np.zeros((map_h, map_w))
    for octave in where.octaves:
        side, (rows, columns) = octave.chunk_l0_px, octave.chunk_bytes.shape
        wide = np.minimum(width - side * np.arange(columns), side)
        tall = np.minimum(height - side * np.arange(rows), side)
        rate = 8 * octave.chunk_bytes / (tall[:, None] * wide[None, :])
        rates += rate[np.minimum(ys // side, rows - 1)[:, None], np.minimum(xs // side, columns - 1)[None, :]]
    return rates


def draw_byte_map(where: ByteMap) -> tuple[np.ndarray, float]:
    """The slide in grey with its rates in colour over it, (h, w, 3) uint8, and the bits a pixel where the ramp ends."""
    width, height = where.l0_wh
    scale = min(1.0, MAP_PX / max(width, height))
    wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    rates = rate_map(where, wh)
    top = float(np.percentile(rates, _PERCENTILE)) or float(rates.max()) or 1.0
    colour = ramp(rates / top)
    rows = np.arange(wh[1]) * where.overview.shape[0] // wh[1]
    columns = np.arange(wh[0]) * where.overview.shape[1] // wh[0]
    grey = (where.overview[rows[:, None], columns[None, :], :3] @ _LUMA)[..., None]
    return np.rint(_MAP_WEIGHT * colour + (1 - _MAP_WEIGHT) * grey).astype(np.uint8), top


def ramp(share: np.ndarray) -> np.ndarray:
    """Colours (..., 3) float64 of 0 to 255 for values of 0 to 1; outside, those of the ends."""
    at = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(share, at, _RAMP[:, c]) for c in range(3)], axis=-1)


def difference(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the largest difference of the three channels times 6, cut at 255. Black is equal."""
    largest = np.abs(original.astype(np.int16) - decoded).max(axis=-1)
    return np.minimum(largest * DIFFERENCE_GAIN, 255).astype(np.uint8)


def richest_window(pixels: np.ndarray, side_px: int = CROP_PX) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the square in `pixels` (H, W, 3) whose luma varies most, on a raster of half its side.

    Chosen by the original alone, so that no codec's failures or successes choose what is shown.
    """
    height, width = pixels.shape[:2]
    w, h = min(side_px, width), min(side_px, height)
    luma = pixels[..., :3] @ _LUMA
    corners = [
        (x, y)
        for y in range(0, height - h + 1, max(1, side_px // 2))
        for x in range(0, width - w + 1, max(1, side_px // 2))
    ]
    x, y = max(corners, key=lambda c: float(luma[c[1] : c[1] + h, c[0] : c[0] + w].var()))
    return x, y, w, h


def crop(name: str, original: np.ndarray, decoded: Sequence[Decoded]) -> Crop:
    """The richest square of one measured region, cut alike from the original and from every decoded picture."""
    x, y, w, h = richest_window(original)
    cut = (slice(y, y + h), slice(x, x + w))
    return Crop(
        f"{name}, {w} x {h} pixels at ({x}, {y})",
        original[cut],
        tuple(Decoded(d.codec, d.layout, d.setting, d.bpp, d.psnr_db, d.pixels[cut]) for d in decoded),
    )


def lossless_address(pixels: np.ndarray) -> str:
    """`data:` address of a lossless WebP of (H, W, 3) or (H, W) uint8."""
    rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    return _address("webp", imagecodecs.webp_encode(np.ascontiguousarray(rgb), lossless=True))


def jpeg_address(pixels: np.ndarray) -> str:
    """`data:` address of a JPEG of quality 85, for pictures that only show where something is."""
    return _address("jpeg", imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=85))


def _address(kind: str, data: bytes | bytearray) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
