"""JPEG (ITU-T T.81), written a strip at a time: baseline, grey or YCbCr 4:4:4, Huffman tables of Annex K.

Each strip is encoded as a picture of its own, and their entropy-coded segments are joined by restart markers (T.81
section E.1.4), at which a decoder starts afresh just as each encoding did. Without chroma subsampling no block
depends on another, so the pixels are those of the whole picture encoded at once.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
from PIL import Image

from inrwsi.errors import UsageError
from inrwsi.formats.output_base import PictureSpec, RegionWriter

_BLOCK = 8
_MAX_INTERVAL = 65535  # blocks from one restart marker to the next, a u16 in the DRI segment
_MAX_U16 = 65535
_ICC_PART = 65535 - 2 - 14
_SOF0, _DHT, _SOS, _DQT, _DRI, _APP0, _APP2 = 0xC0, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE2


class JpegWriter(RegionWriter):
    """A picture of up to 65500 pixels a side: the format has room for 65535, libjpeg and so most readers do not."""

    suffixes: ClassVar[tuple[str, ...]] = (".jpg", ".jpeg")
    max_side_px: ClassVar[int] = 65500
    allowed_bits: ClassVar[tuple[int, ...]] = (8,)

    def __init__(self, path: Path, spec: PictureSpec, quality: int) -> None:
        if not 1 <= quality <= 100:
            raise UsageError(f"{path}: JPEG quality {quality} is not possible; give 1 to 100")
        super().__init__(path, spec)
        self._quality = quality
        blocks_a_row = -(-spec.wh[0] // _BLOCK)
        # A power of two, so that the intervals of a strip have one size.
        block_rows = self.strip_rows // _BLOCK
        while block_rows * blocks_a_row > _MAX_INTERVAL:
            block_rows //= 2
        self._interval_rows = block_rows * _BLOCK
        self._interval_blocks = block_rows * blocks_a_row
        self._intervals = 0

    def _begin(self, file: IO[bytes]) -> None:
        file.write(b"\xff\xd8")
        self._segment(_APP0, b"JFIF\0\x01\x01" + _density(self.spec.per_metre) + b"\0\0")
        icc = self.spec.icc or b""
        parts = [icc[i : i + _ICC_PART] for i in range(0, len(icc), _ICC_PART)]
        if len(parts) > 255:
            raise UsageError(f"{self.path}: the ICC profile of {len(icc)} bytes is too large for a JPEG; write .tif")
        for number, part in enumerate(parts, 1):
            self._segment(_APP2, b"ICC_PROFILE\0" + bytes((number, len(parts))) + part)

    def _put(self, strip: np.ndarray) -> None:
        for top in range(0, len(strip), self._interval_rows):
            segments, entropy_coded = _encode(strip[top : top + self._interval_rows], self._quality)
            if self._intervals == 0:
                self._write_tables(segments)
            else:
                self._file.write(bytes((0xFF, 0xD0 + (self._intervals - 1) % 8)))
            self._file.write(entropy_coded)
            self._intervals += 1

    def _write_tables(self, segments: list[tuple[int, bytes]]) -> None:
        """The first strip's tables and frame, with the height of the whole and the restart interval."""
        for marker, body in segments:
            if marker == _SOF0:
                body = body[:1] + struct.pack(">H", self.spec.wh[1]) + body[3:]
            if marker == _SOS:
                self._segment(_DRI, struct.pack(">H", self._interval_blocks))
            if marker in (_DQT, _SOF0, _DHT, _SOS):
                self._segment(marker, body)

    def _finish(self) -> None:
        self._file.write(b"\xff\xd9")

    def _segment(self, marker: int, body: bytes) -> None:
        self._file.write(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)


def _density(per_metre: tuple[float, float] | None) -> bytes:
    """JFIF's unit and X and Y density: dots a centimetre, or "no unit, square" where they do not fit 16 bits."""
    if per_metre is not None:
        dots = [round(v / 100) for v in per_metre]
        if all(1 <= d <= _MAX_U16 for d in dots):
            return struct.pack(">BHH", 2, *dots)
    return struct.pack(">BHH", 0, 1, 1)


def _encode(pixels: np.ndarray, quality: int) -> tuple[list[tuple[int, bytes]], bytes]:
    """A picture's header as (marker, body) pairs up to and with SOS, and its entropy-coded segment."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0, optimize=False, progressive=False)
    data = buffer.getvalue()
    segments: list[tuple[int, bytes]] = []
    position = 2
    while not segments or segments[-1][0] != _SOS:
        _, marker, length = struct.unpack_from(">BBH", data, position)
        segments.append((marker, data[position + 4 : position + 2 + length]))
        position += 2 + length
    return segments, data[position:-2]
