"""A generated slide that looks like H&E under a microscope, as a pyramidal TIFF: for tests, demos and fresh machines.

No pixel comes from a patient. What is painted is a function of the position, the slide's size, mpp and the seed alone,
so any window can be made on its own and a slide of any size streams through a few tiles of memory.
"""

from __future__ import annotations

import contextlib
import operator
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import imagecodecs
import numpy as np
import tifffile

from inrwsi.errors import UsageError, unwritten
from inrwsi.sample_paint import lens_kernel, paint, transmittance_table
from inrwsi.sample_scene import plan_scene

LEVEL_STEP = 4
_MIN_SIDE_PX, _MAX_SIDE_PX = 64, 1 << 20
_MPP_RANGE_UM = (0.1, 2.0)
_JPEG_QUALITY = 90
_SMALLEST_TOP_PX = 1024
_CLASSIC_TIFF_PIXELS = 1 << 31  # at a byte a pixel or less, a pyramid of fewer fits under classic TIFF's 4 GiB

Progress = Callable[[int, int], None]
_Tile = tuple[bytes, np.ndarray]  # the tile's JPEG, and the box means of its pixels


def sample_region(
    l0_xy: tuple[int, int], wh: tuple[int, int], *, size_wh: tuple[int, int], seed: int, mpp_um: float = 0.5
) -> np.ndarray:
    """A window of the generated slide, before JPEG.

    Windows that overlap agree bit for bit, on any CPU: the arithmetic is integers and exactly rounded operations.

    Args:
        l0_xy: top left corner in level-0 pixels.
        wh: width and height in level-0 pixels; the window lies inside the slide.
        size_wh: size of the whole slide in level-0 pixels, 64 to 2**20 a side.
        seed: 0 to 2**32 - 1.
        mpp_um: micrometres a pixel, 0.1 to 2.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        UsageError: an argument out of range.
    """
    size_wh, seed, mpp_um = _checked(size_wh, seed, mpp_um)
    (x, y), (width, height) = l0_xy, wh
    if min(x, y) < 0 or min(width, height) < 1 or x + width > size_wh[0] or y + height > size_wh[1]:
        raise UsageError(f"a window of {width}x{height} at ({x}, {y}) does not lie inside {size_wh[0]}x{size_wh[1]}")
    out = np.empty((height, width, 3), np.uint8)
    side = 512  # one piece at a time bounds the memory; the pixels do not depend on it
    for top in range(0, height, side):
        for left in range(0, width, side):
            window = (min(side, width - left), min(side, height - top))
            piece = _paint((x + left, y + top), window, size_wh, seed, mpp_um)
            out[top : top + side, left : left + side] = piece
    return out


def write_sample(
    path: str | os.PathLike[str],
    *,
    size_wh: tuple[int, int] = (4096, 4096),
    seed: int = 1,
    mpp_um: float = 0.5,
    progress: Progress | None = None,
) -> None:
    """Writes the generated slide as a tiled JPEG pyramid that OpenSlide opens as generic TIFF with its mpp.

    Level k is 4**k times smaller than level 0, rounded down, and is the box mean of 4x4 pixels of the level above as
    it was before JPEG. Peak memory does not grow with the slide; a temporary folder beside `path` holds a fifteenth
    of the raw pixels while writing. The file appears whole under `path`, replacing what was there, or not at all.

    Args:
        path: where to write, `.tif` or `.tiff`.
        size_wh: width and height in level-0 pixels, 64 to 2**20 a side.
        seed: 0 to 2**32 - 1; the same seed gives the same bytes with the same libraries.
        mpp_um: micrometres a pixel, 0.1 to 2.
        progress: called with tiles written and tiles in all, levels together.

    Raises:
        UsageError: an argument out of range, or a folder that cannot be written to.
    """
    size_wh, seed, mpp_um = _checked(size_wh, seed, mpp_um)
    target = Path(path)
    if target.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"{target}: a sample slide is a TIFF, so its name must end in .tif or .tiff")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; a sample slide needs a file name")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as work:
            unfinished = Path(work) / "sample.tiff"
            _write_pyramid(unfinished, size_wh, seed, mpp_um, progress or (lambda done, total: None))
            os.replace(unfinished, target)
    except OSError as error:
        raise unwritten(error)(f"{target}: cannot be written: {error.strerror or error}") from error


def level_sizes(size_wh: tuple[int, int]) -> list[tuple[int, int]]:
    """Width and height of every level, level 0 first: a quarter each time until the longer side is at most 1024."""
    sizes = [size_wh]
    while max(sizes[-1]) > _SMALLEST_TOP_PX and min(sizes[-1]) >= LEVEL_STEP:
        sizes.append((sizes[-1][0] // LEVEL_STEP, sizes[-1][1] // LEVEL_STEP))
    return sizes


def _checked(size_wh: tuple[int, int], seed: int, mpp_um: float) -> tuple[tuple[int, int], int, float]:
    try:
        width, height = (operator.index(side) for side in size_wh)
        seed, mpp_um = operator.index(seed), float(mpp_um)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a sample slide takes two whole numbers as size, one as seed and a number as mpp, "
            f"not {size_wh!r}, {seed!r} and {mpp_um!r}"
        ) from error
    if not (min(width, height) >= _MIN_SIDE_PX and max(width, height) <= _MAX_SIDE_PX):
        raise UsageError(f"a sample slide is {_MIN_SIDE_PX} to {_MAX_SIDE_PX} pixels a side, not {width}x{height}")
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"a sample slide's seed is 0 to {(1 << 32) - 1}, not {seed}")
    if not _MPP_RANGE_UM[0] <= mpp_um <= _MPP_RANGE_UM[1]:
        raise UsageError(
            f"a sample slide has {_MPP_RANGE_UM[0]:g} to {_MPP_RANGE_UM[1]:g} micrometres a pixel, not {mpp_um}"
        )
    return (width, height), seed, mpp_um


@lru_cache(maxsize=8)
def _prepared(size_wh: tuple[int, int], seed: int, mpp_um: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return plan_scene(size_wh, mpp_um, seed), transmittance_table(), lens_kernel(mpp_um)


def _paint(
    l0_xy: tuple[int, int], wh: tuple[int, int], size_wh: tuple[int, int], seed: int, mpp_um: float
) -> np.ndarray:
    scene, table, lens = _prepared(size_wh, seed, mpp_um)
    return paint(scene, l0_xy[0], l0_xy[1], wh[0], wh[1], mpp_um, table, lens)


def box_mean(pixels: np.ndarray) -> np.ndarray:
    """Means of whole 4x4 boxes, halves rounded up: (h, w, 3) uint8 -> (h // 4, w // 4, 3) uint8."""
    height, width = pixels.shape[0] // LEVEL_STEP, pixels.shape[1] // LEVEL_STEP
    whole = pixels[: height * LEVEL_STEP, : width * LEVEL_STEP]
    boxes = whole.reshape(height, LEVEL_STEP, width, LEVEL_STEP, 3).sum(axis=(1, 3), dtype=np.uint16)
    return ((boxes + LEVEL_STEP * LEVEL_STEP // 2) // (LEVEL_STEP * LEVEL_STEP)).astype(np.uint8)


class _Spool:
    """The pixels of one reduced level on disk, one record a tile of the level above, until their turn to be written."""

    def __init__(self, path: Path, wh: tuple[int, int], tile_px: int) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._lock = threading.Lock()
        self._wh, self._tile_px, self._block_px = wh, tile_px, tile_px // LEVEL_STEP
        self._across = -(-wh[0] // self._block_px) + 1  # the tile above that holds only a cut-off rest makes one more
        self._record_bytes = self._block_px**2 * 3

    def __enter__(self) -> _Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, column: int, row: int, block: np.ndarray) -> None:
        """Keeps the box means of the tile (column, row) of the level above."""
        record = np.zeros((self._block_px, self._block_px, 3), np.uint8)
        record[: block.shape[0], : block.shape[1]] = block
        with self._lock:
            self._file.seek((row * self._across + column) * self._record_bytes)
            self._file.write(record.tobytes())

    def tile(self, column: int, row: int) -> np.ndarray:
        """Tile (column, row) of this level, cut at the level's edge: (h, w, 3) uint8."""
        side = self._block_px
        width = min(self._tile_px, self._wh[0] - column * self._tile_px)
        height = min(self._tile_px, self._wh[1] - row * self._tile_px)
        blocks_across = -(-width // side)
        out = np.empty((self._tile_px, self._tile_px, 3), np.uint8)
        for j in range(-(-height // side)):
            first = (row * LEVEL_STEP + j) * self._across + column * LEVEL_STEP
            with self._lock:
                self._file.seek(first * self._record_bytes)
                strip = self._file.read(blocks_across * self._record_bytes)
            blocks = np.frombuffer(strip, np.uint8).reshape(blocks_across, side, side, 3)
            out[j * side : (j + 1) * side, : blocks_across * side] = np.concatenate(list(blocks), axis=1)
        return out[:height, :width]


def _encoded(pixels: np.ndarray, tile_px: int) -> bytes:
    pad = ((0, tile_px - pixels.shape[0]), (0, tile_px - pixels.shape[1]), (0, 0))
    tile = np.ascontiguousarray(np.pad(pixels, pad, mode="edge"))
    payload = imagecodecs.jpeg8_encode(
        tile, level=_JPEG_QUALITY, colorspace="rgb", outcolorspace="ycbcr", subsampling="444"
    )
    return bytes(payload)


def _in_order(
    pool: ThreadPoolExecutor, ahead: int, work: Callable[[int, int], _Tile], grid: tuple[int, int]
) -> Iterator[tuple[int, int, _Tile]]:
    """(column, row, work(column, row)) over a grid row by row, with at most `ahead` results in memory."""
    waiting: deque[tuple[int, int, Future[_Tile]]] = deque()
    try:
        for row in range(grid[1]):
            for column in range(grid[0]):
                waiting.append((column, row, pool.submit(work, column, row)))
                if len(waiting) >= ahead:
                    column_done, row_done, future = waiting.popleft()
                    yield column_done, row_done, future.result()
        while waiting:
            column_done, row_done, future = waiting.popleft()
            yield column_done, row_done, future.result()
    finally:
        for *_, future in waiting:
            future.cancel()


def _write_pyramid(path: Path, size_wh: tuple[int, int], seed: int, mpp_um: float, progress: Progress) -> None:
    sizes = level_sizes(size_wh)
    tile_px = 512 if max(size_wh) > _SMALLEST_TOP_PX else 256
    grids = [(-(-w // tile_px), -(-h // tile_px)) for w, h in sizes]
    total, done = sum(columns * rows for columns, rows in grids), 0
    threads = min(os.cpu_count() or 1, 16)

    def paint_tile(column: int, row: int) -> np.ndarray:
        x, y = column * tile_px, row * tile_px
        wh = (min(tile_px, size_wh[0] - x), min(tile_px, size_wh[1] - y))
        return _paint((x, y), wh, size_wh, seed, mpp_um)

    def level_tiles(pixels_of: Callable[[int, int], np.ndarray], level: int, below: _Spool | None) -> Iterator[bytes]:
        nonlocal done

        def finish(column: int, row: int) -> _Tile:
            pixels = pixels_of(column, row)
            return _encoded(pixels, tile_px), box_mean(pixels)

        for column, row, (payload, block) in _in_order(pool, 2 * threads, finish, grids[level]):
            if below is not None:
                below.put(column, row, block)
            done += 1
            progress(done, total)
            yield payload

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        bigtiff = size_wh[0] * size_wh[1] >= _CLASSIC_TIFF_PIXELS
        tiff = stack.enter_context(tifffile.TiffWriter(path, bigtiff=bigtiff))
        pixels_of: Callable[[int, int], np.ndarray] = paint_tile
        for level, wh in enumerate(sizes):
            below = None
            if level + 1 < len(sizes):
                below = stack.enter_context(_Spool(path.with_name(f"level{level + 1}"), sizes[level + 1], tile_px))
            _write_level(tiff, level_tiles(pixels_of, level, below), level, wh, tile_px, seed, mpp_um)
            if below is not None:
                pixels_of = below.tile


def _write_level(
    tiff: tifffile.TiffWriter,
    tiles: Iterator[bytes],
    level: int,
    wh: tuple[int, int],
    tile_px: int,
    seed: int,
    mpp_um: float,
) -> None:
    per_cm = Fraction(10_000 / (mpp_um * LEVEL_STEP**level)).limit_denominator(10_000)
    tiff.write(
        tiles,
        shape=(wh[1], wh[0], 3),
        dtype=np.uint8,
        tile=(tile_px, tile_px),
        photometric="rgb",  # stored as YCbCr, which tifffile and libtiff turn back into RGB
        compression="jpeg",
        compressionargs={"level": _JPEG_QUALITY},
        subsampling=(1, 1),
        subfiletype=0 if level == 0 else 1,
        resolution=((per_cm.numerator, per_cm.denominator),) * 2,
        resolutionunit="CENTIMETER",
        description=f"Generated H&E-like slide, seed {seed}" if level == 0 else None,
        software="inrwsi",
        metadata=None,
    )
