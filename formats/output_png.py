"""PNG (ISO/IEC 15948), written a strip at a time: grey or RGB, 8 or 16 bits, with pixel size and ICC profile."""

from __future__ import annotations

import struct
import zlib
from typing import IO, ClassVar

import numpy as np

from inrwsi.formats.output_base import RegionWriter

_UP = 2
_MAX_PER_METRE = 2**31 - 1


class PngWriter(RegionWriter):
    """One zlib stream over all rows, each filtered by "Up": within 1 % of choosing a filter a row, and much faster."""

    suffixes: ClassVar[tuple[str, ...]] = (".png",)
    max_side_px: ClassVar[int] = 2**31 - 1

    def _begin(self, file: IO[bytes]) -> None:
        width, height = self.spec.wh
        bits, colour_type = self.spec.bit_depth, 0 if self.spec.channels == 1 else 2
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
        if self.spec.icc:
            self._chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(self.spec.icc))
        if self.spec.per_metre:
            x, y = (min(round(v), _MAX_PER_METRE) for v in self.spec.per_metre)
            self._chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
        self._deflate = zlib.compressobj(6)
        self._above = np.zeros(width * self.spec.channels * bits // 8, np.uint8)

    def _put(self, strip: np.ndarray) -> None:
        # Samples of 16 bits are big endian, and filtered byte by byte.
        rows = strip.reshape(len(strip), -1).astype(f">u{self.spec.bit_depth // 8}", copy=False).view(np.uint8)
        filtered = np.empty((len(rows), rows.shape[1] + 1), np.uint8)
        filtered[:, 0] = _UP
        np.subtract(rows[0], self._above, out=filtered[0, 1:])
        np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
        self._above = rows[-1].copy()
        self._chunk(b"IDAT", self._deflate.compress(filtered.data))

    def _finish(self) -> None:
        self._chunk(b"IDAT", self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _chunk(self, kind: bytes, data: bytes) -> None:
        if kind == b"IDAT" and not data:
            return  # zlib is still gathering
        self._file.write(struct.pack(">I", len(data)) + kind)
        self._file.write(data)
        self._file.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))
