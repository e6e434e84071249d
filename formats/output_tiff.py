"""Tiled, lossless TIFF, written a row of tiles at a time: deflate with horizontal prediction, mpp and ICC profile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
import tifffile

from inrwsi.formats.output_base import PictureSpec, RegionWriter

_TILE = 512
# Classic TIFF addresses 4 GiB; incompressible pixels take a little more room than they have bytes.
_CLASSIC_BYTES = 3_900_000_000
_COMPRESS_AT_ONCE_BYTES = 8 * 2**20


class _Abandoned(Exception):
    """Ends the worker's wait for further strips."""


class TiffWriter(RegionWriter):
    """tifffile asks for tiles and our callers hand over strips: a thread stands between, at most two strips behind."""

    strip_rows = _TILE
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")
    max_side_px: ClassVar[int] = 2**31 - 1
    allowed_channels: ClassVar[tuple[int, ...]] = tuple(range(1, 17))

    def __init__(self, path: Path, spec: PictureSpec) -> None:
        super().__init__(path, spec)
        self._strips: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._error: BaseException | None = None

    def _begin(self, file: IO[bytes]) -> None:
        self._worker = threading.Thread(target=self._work, args=(file,), daemon=True)
        self._worker.start()

    def _put(self, strip: np.ndarray) -> None:
        # A whole strip may be the caller's own buffer.
        self._hand_over(strip.copy())

    def _finish(self) -> None:
        self._hand_over(None)
        self._worker.join()
        self._raise_error()

    def _abandon(self) -> None:
        self._stop.set()
        self._worker.join()

    def _hand_over(self, strip: np.ndarray | None) -> None:
        while True:
            self._raise_error()
            try:
                return self._strips.put(strip, timeout=0.1)
            except queue.Full:
                continue  # look again whether the worker still lives

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self, file: IO[bytes]) -> None:
        width, height = self.spec.wh
        channels = self.spec.channels
        per_metre = self.spec.per_metre
        raw_bytes = width * height * channels * self.spec.dtype.itemsize
        try:
            with tifffile.TiffWriter(file, bigtiff=raw_bytes > _CLASSIC_BYTES) as tiff:
                tiff.write(
                    self._tiles(),
                    # tifffile takes a last axis of one for the width
                    shape=(height, width, channels) if channels > 1 else (height, width),
                    dtype=self.spec.dtype,
                    tile=(_TILE, _TILE),
                    photometric="rgb" if channels == 3 else "minisblack",
                    planarconfig="contig" if channels > 1 else None,
                    compression="zlib",
                    predictor=True,
                    resolution=None if per_metre is None else (per_metre[0] / 100, per_metre[1] / 100),
                    resolutionunit=None if per_metre is None else "CENTIMETER",
                    iccprofile=self.spec.icc,
                    metadata=None,
                    software=False,
                    buffersize=_COMPRESS_AT_ONCE_BYTES,
                )
                file.flush()
        except _Abandoned:
            pass
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._error = error

    def _tiles(self) -> Iterator[np.ndarray]:
        """Tiles in the order of the file; what lies beyond the picture repeats its border, which compresses well."""
        while (strip := self._next_strip()) is not None:
            for x in range(0, strip.shape[1], _TILE):
                tile = strip[:, x : x + _TILE]
                missing = (_TILE - tile.shape[0], _TILE - tile.shape[1])
                tile = np.pad(tile, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
                yield tile if self.spec.channels > 1 else tile[..., 0]

    def _next_strip(self) -> np.ndarray | None:
        while not self._stop.is_set():
            try:
                return self._strips.get(timeout=0.1)
            except queue.Empty:
                continue
        raise _Abandoned
