"""TIFF and OME-TIFF through tifffile: strips or tiles, 8 or 16 bits, 1 to 16 channels, planar or interleaved.

OpenSlide opens any tiled TIFF but shows its first page as 8-bit RGB; further channels, 16 bits and grey are read here.
"""

from __future__ import annotations

import struct
import threading
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tifffile

from inrwsi.errors import UsageError
from inrwsi.formats.metadata import OBJECTIVE_RANGE, level_metadata, plausible_mpp
from inrwsi.formats.source_base import MAX_CHANNELS, BaseSource, Facts, Scale, composite, default_background

_CACHE_BYTES = 64 * 2**20
# Who reads a slide in squares comes back to the same strips: a row of squares of so many pixels is kept, up to a limit.
_STRIPS_FOR_PX, _MOST_STRIPS_BYTES = 1024, 512 * 2**20
_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _YCBCR = 0, 1, 2, 6
_JPEG_FAMILY = (6, 7, 33003, 33005, 33007, 34712, 34892)
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_UNIT_UM = {
    "nm": 1e-3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "inch": 25400.0,
    "m": 1e6,
}


class _Level(Protocol):
    """One stored level: its size, what is decoded at once, and windows of it as (h, w, stored channels)."""

    wh: tuple[int, int]
    tile_wh: tuple[int, int]

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray: ...


class TiffSource(BaseSource):
    """The first image of a TIFF. Only the strips or tiles under a window are read."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if the file is damaged or is not one picture of 8 or 16 bits."""
        try:
            self._tiff = tifffile.TiffFile(path)
        except Exception as error:  # struct.error, TiffFileError, whatever a damaged header makes of it
            raise UsageError(f"{path}: cannot be read as a TIFF ({error}); the file is damaged") from error
        try:
            _check_directories(path, self._tiff)
            series = self._series(path)
            page = series.keyframe
            stored = _check_layout(path, series)
            self._invert = page.photometric == _MIN_IS_WHITE
            alpha = page.extrasamples[-1:] if stored == page.samplesperpixel in (2, 4) else ()
            self._alpha = next((a for a in alpha if a in (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)), None)
            lock, cache = threading.Lock(), _SegmentCache(_CACHE_BYTES)
            self._levels = [self._open_level(level, path, lock, cache) for level in series.levels]
            super().__init__(self._facts(path, page, stored - (self._alpha is not None)))
        except BaseException:
            self._tiff.close()
            raise

    def _series(self, path: Path) -> tifffile.TiffPageSeries:
        try:
            return self._tiff.series[0]
        except Exception as error:
            raise UsageError(f"{path}: its TIFF directory cannot be read ({error}); the file is damaged") from error

    def _open_level(
        self, level: tifffile.TiffPageSeries, path: Path, lock: threading.Lock, cache: _SegmentCache
    ) -> _Level:
        file_bytes = self._tiff.filehandle.size
        if level.dataoffset is not None:
            return _MappedLevel(path, level, file_bytes, self._tiff.byteorder)
        return _SegmentLevel(path, level, self._tiff, lock, cache)

    def _facts(self, path: Path, page: tifffile.TiffPage, channels: int) -> Facts:
        bit_depth = page.dtype.itemsize * 8
        width, height = self._levels[0].wh
        return Facts(
            name=path.name,
            width=width,
            height=height,
            channels=channels,
            bit_depth=bit_depth,
            background=default_background(channels, bit_depth),
            scale=_scale(self._tiff, page),
            icc=icc if isinstance(icc := page.tags.valueof(34675), bytes) else None,
            metadata=level_metadata(self.levels_wh),
            bytes_on_disk=self._tiff.filehandle.size,
        )

    @property
    def levels_wh(self) -> tuple[tuple[int, int], ...]:
        return tuple(level.wh for level in self._levels)

    def _tile_wh(self, level: int) -> tuple[int, int]:
        return self._levels[level].tile_wh

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        pixels = self._levels[level].read(x, y, w, h)
        if self._invert:
            # Alpha is none of the picture's samples; what it was multiplied into is white where that is 0.
            most = pixels[..., -1:] if self._alpha == _ASSOCIATED_ALPHA else np.iinfo(pixels.dtype).max
            colour = most - np.minimum(pixels[..., : self.channels], most)
            pixels = np.concatenate([colour, pixels[..., self.channels :]], axis=2)
        if self._alpha is None:
            return pixels
        white = (int(np.iinfo(pixels.dtype).max),) * self.channels
        return composite(pixels, white, premultiplied=self._alpha == _ASSOCIATED_ALPHA)

    def close(self) -> None:
        self._tiff.close()


def is_plain_rgb(path: Path) -> bool:
    """Whether a TIFF is one upright page of 8-bit RGB (and its reductions), which OpenSlide then shows without loss.

    Of one that is to be turned it turns each tile where it lies.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series[0]
            page = series.keyframe
            return (
                not tiff.is_ome
                and len(series.pages) == 1
                and page.dtype == np.uint8
                and page.samplesperpixel == 3
                and page.photometric in (_RGB, _YCBCR)
                and page.tags.valueof(274, 1) == 1
            )
    except Exception:  # tifffile cannot tell; OpenSlide has opened it
        return True


def _check_directories(path: Path, tiff: tifffile.TiffFile) -> None:
    """UsageError where the chain of directories, or a value that one points to, leaves the file.

    tifffile drops what it cannot reach with no more than a line in its log: pages, so channels, or the pixel size.
    """
    layout, file = tiff.tiff, tiff.filehandle
    # Of the offsets of NDPI, whose upper halves lie elsewhere, the lower half is enough to be beyond the end.
    entry = layout.byteorder + ("HHII" if layout.version == 42 else "HHQQ")
    seen: set[int] = set()
    file.seek(4 if layout.version == 42 else 8)
    position = _unpack(path, tiff, layout.offsetformat)
    while position and position not in seen:
        seen.add(position)
        file.seek(position)
        entries = _unpack(path, tiff, layout.tagnoformat)
        data = file.read(entries * layout.tagsize)
        position = _unpack(path, tiff, layout.offsetformat)
        for _, kind, count, offset in struct.iter_unpack(entry, data[: len(data) // layout.tagsize * layout.tagsize]):
            value_bytes = count * _TYPE_BYTES.get(kind, 0)
            if value_bytes > layout.tagoffsetthreshold and offset + value_bytes > file.size:
                raise _truncated(path, offset + value_bytes, file.size)


def _unpack(path: Path, tiff: tifffile.TiffFile, form: str) -> int:
    """The number at the position of the file."""
    data = tiff.filehandle.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise UsageError(f"{path}: its TIFF directory leaves the file; the file is truncated: copy it again")
    return int(struct.unpack(form, data)[0])


def _check_layout(path: Path, series: tifffile.TiffPageSeries) -> int:
    """The number of stored channels, or UsageError for what is not one picture of 8 or 16 bits."""
    page = series.keyframe
    extra = [f"{a}={n}" for a, n in zip(series.axes, series.shape, strict=True) if a not in "YXSC" and n > 1]
    if extra:
        raise UsageError(
            f"{path}: holds a stack ({', '.join(extra)}) and not one picture; "
            "save one plane, or channels as an OME-TIFF with a C axis"
        )
    if page.dtype is None:
        raise UsageError(f"{path}: its first page has no pixels; the file is damaged")
    turned = page.tags.valueof(274, 1)
    if turned != 1:
        raise UsageError(f"{path}: is to be turned when it is shown (orientation {turned}); save it upright")
    if page.dtype not in (np.uint8, np.uint16) or page.bitspersample < 8:
        kind = f"{page.bitspersample}-bit {page.dtype}"
        raise UsageError(f"{path}: pixels are {kind}; save it with 8 or 16 bits, unsigned")
    as_rgb = page.photometric == _YCBCR and page.compression in _JPEG_FAMILY
    if page.photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB) and not as_rgb:
        name = getattr(page.photometric, "name", page.photometric)
        raise UsageError(f"{path}: its colours are stored as {name}; save it as RGB or grey")
    channels = int(np.prod([n for a, n in zip(series.axes, series.shape, strict=True) if a in "SC"], initial=1))
    if not 1 <= channels <= MAX_CHANNELS:
        raise UsageError(f"{path}: has {channels} channels; at most {MAX_CHANNELS} can be read")
    return channels


class _MappedLevel:
    """Pixels that lie in the file as they are: a window is cut out of a memory map."""

    def __init__(self, path: Path, level: tifffile.TiffPageSeries, file_bytes: int, byteorder: str) -> None:
        self._path = path
        self._shape, self._dtype = level.shape, np.dtype(level.dtype).newbyteorder(byteorder)
        self._offset = int(level.dataoffset or 0)
        axes = level.axes
        self._plane = tuple(slice(None) if axis in "YXSC" else 0 for axis in axes)
        kept = [axis for axis in axes if axis in "YXSC"]
        self._order = [kept.index("Y"), kept.index("X"), *(i for i, axis in enumerate(kept) if axis in "SC")]
        self.wh = (self._shape[axes.index("X")], self._shape[axes.index("Y")])
        self.tile_wh = (self.wh[0], 16)
        end = self._offset + int(np.prod(self._shape)) * self._dtype.itemsize
        if end > file_bytes:
            raise _truncated(path, end, file_bytes)

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        # Mapped anew for each window: the pages of a map that stays count as memory of this process.
        mapped = np.memmap(self._path, self._dtype, "r", self._offset, self._shape)
        window = mapped[self._plane].transpose(self._order)[y : y + h, x : x + w]
        return np.array(window.reshape(h, w, -1), self._dtype.newbyteorder("="))


class _SegmentCache:
    """Decoded strips and tiles, the latest ones, up to a number of bytes (and always the last one)."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._held_bytes = limit_bytes, 0
        self._segments: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def make_room(self, limit_bytes: int) -> None:
        """Keep at least so many bytes."""
        self._limit_bytes = max(self._limit_bytes, limit_bytes)

    def get(self, key: tuple[int, int]) -> np.ndarray | None:
        with self._lock:
            if key in self._segments:
                self._segments.move_to_end(key)
            return self._segments.get(key)

    def put(self, key: tuple[int, int], pixels: np.ndarray) -> None:
        with self._lock:
            if key in self._segments:
                return
            self._segments[key] = pixels
            self._held_bytes += pixels.nbytes
            while self._held_bytes > self._limit_bytes and len(self._segments) > 1:
                self._held_bytes -= self._segments.popitem(last=False)[1].nbytes


class _SegmentLevel:
    """Pixels in strips or tiles, compressed or not, of one page for all channels or a page (or plane) each."""

    def __init__(
        self,
        path: Path,
        level: tifffile.TiffPageSeries,
        tiff: tifffile.TiffFile,
        lock: threading.Lock,
        cache: _SegmentCache,
    ) -> None:
        self._path, self._lock, self._cache = path, lock, cache
        self._file, self._pages = tiff.filehandle, list(level.pages)
        page = level.keyframe
        if any(p is None or p.parent is not tiff for p in self._pages):
            raise UsageError(f"{path}: its pixels lie in further files; save it as one file")
        self.wh = (page.imagewidth, page.imagelength)
        tile = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
        self.tile_wh = (tile[0], min(tile[1], page.imagelength))
        self._grid_wh = (-(-self.wh[0] // tile[0]), -(-self.wh[1] // self.tile_wh[1]))
        separate = page.planarconfig == 2 and page.samplesperpixel > 1
        self._planes = page.samplesperpixel if separate else 1
        self._per_plane = 1 if separate else page.samplesperpixel
        self._dtype, self._nodata, self._decode = page.dtype, page.nodata, page.decode
        self._check_segments(tiff.filehandle.size)
        if self.tile_wh[0] == self.wh[0]:
            channels = len(self._pages) * self._planes * self._per_plane
            row_bytes = self.wh[0] * (_STRIPS_FOR_PX + self.tile_wh[1]) * channels * self._dtype.itemsize
            cache.make_room(min(row_bytes, _MOST_STRIPS_BYTES))

    def _check_segments(self, file_bytes: int) -> None:
        needed = self._grid_wh[0] * self._grid_wh[1] * self._planes
        for page in self._pages:
            if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
                raise UsageError(f"{self._path}: its directory lists too few strips or tiles; the file is damaged")
            end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False))
            if end > file_bytes:
                raise _truncated(self._path, end, file_bytes)

    def read(self, x: int, y: int, w: int, h: int) -> np.ndarray:
        out = np.empty((h, w, len(self._pages) * self._planes * self._per_plane), self._dtype)
        tile_w, tile_h = self.tile_wh
        for row in range(y // tile_h, -(-(y + h) // tile_h)):
            for column in range(x // tile_w, -(-(x + w) // tile_w)):
                x0, y0 = max(x, column * tile_w), max(y, row * tile_h)
                x1, y1 = min(x + w, (column + 1) * tile_w), min(y + h, (row + 1) * tile_h)
                inside = np.s_[y0 - row * tile_h : y1 - row * tile_h, x0 - column * tile_w : x1 - column * tile_w]
                channel = 0
                for page in range(len(self._pages)):
                    for plane in range(self._planes):
                        index = (plane * self._grid_wh[1] + row) * self._grid_wh[0] + column
                        target = out[y0 - y : y1 - y, x0 - x : x1 - x, channel : channel + self._per_plane]
                        piece = self._segment(page, index)[inside]
                        if piece.shape != target.shape:
                            raise UsageError(f"{self._path}: strip or tile {index} is too small; the file is damaged")
                        target[...] = piece
                        channel += self._per_plane
        return out

    def _segment(self, page_number: int, index: int) -> np.ndarray:
        """A decoded strip or tile, (rows, columns, samples)."""
        page = self._pages[page_number]
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:  # a sparse file: never written
            return np.full((self.tile_wh[1], self.tile_wh[0], self._per_plane), self._nodata, self._dtype)
        key = (offset, index)
        found = self._cache.get(key)
        if found is not None:
            return found
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(count)
        try:
            decoded: Any = self._decode(data, index, jpegtables=page.jpegtables, jpegheader=page.keyframe.jpegheader)[0]
        except Exception as error:  # each of the many codecs has its own
            raise UsageError(
                f"{self._path}: strip or tile {index} cannot be decoded ({error}); the file is damaged or incomplete"
            ) from error
        pixels = decoded[0].astype(self._dtype, copy=False)
        self._cache.put(key, pixels)
        return pixels


def _truncated(path: Path, needed: int, present: int) -> UsageError:
    return UsageError(f"{path}: is truncated: has {present} bytes, and its contents reach to {needed}; copy it again")


def _scale(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Scale:
    """OME-XML where there is one, for it states what it means; else the resolution tags."""
    scale = _ome_scale(tiff.ome_metadata) if tiff.is_ome and tiff.ome_metadata else Scale()
    if scale.mpp_um is not None:
        return scale
    unit_um = {2: 25400.0, 3: 10000.0}.get(page.tags.valueof("ResolutionUnit", default=2))
    if unit_um is None and tiff.imagej_metadata:
        unit_um = _UNIT_UM.get(str(tiff.imagej_metadata.get("unit", "")).replace("\\u00B5", "µ"))
    if unit_um is None:
        return scale
    mpp = plausible_mpp(*(_pixel_um(page.tags.valueof(tag), unit_um) for tag in ("XResolution", "YResolution")))
    if mpp is None:
        return scale
    return Scale(mpp, "tiff-resolution", scale.objective_power, scale.objective_source)


def _pixel_um(resolution: Any, unit_um: float) -> float | None:
    """None of what is no fraction: some software writes another type of number, whose meaning is anyone's guess."""
    if not isinstance(resolution, tuple) or len(resolution) != 2 or 0 in resolution:
        return None
    return unit_um * resolution[1] / resolution[0]


def _ome_scale(xml: str) -> Scale:
    """PhysicalSizeX and Y of the first image with their units, and its objective's NominalMagnification."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return Scale()
    pixels = root.find("{*}Image/{*}Pixels")
    mpp = plausible_mpp(_ome_length_um(pixels, "X"), _ome_length_um(pixels, "Y"))
    used = root.find("{*}Image/{*}ObjectiveSettings")
    wanted = used.get("ID") if used is not None else None
    objectives = [o for o in root.iterfind("{*}Instrument/{*}Objective") if o.get("ID") == wanted]
    power = _number(objectives[0].get("NominalMagnification")) if objectives else None
    if power is not None and not OBJECTIVE_RANGE[0] <= power <= OBJECTIVE_RANGE[1]:
        power = None
    return Scale(mpp, "ome-xml" if mpp else "unknown", power, "ome-xml" if power else "unknown")


def _ome_length_um(pixels: ElementTree.Element | None, axis: str) -> float | None:
    if pixels is None:
        return None
    size = _number(pixels.get(f"PhysicalSize{axis}"))
    unit_um = _UNIT_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").replace("μ", "µ"))
    return None if size is None or unit_um is None else size * unit_um


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
