"""One file of separately coded tiles with an index: the least that gives a still-picture codec random access.

    4 bytes   "TLP1"
    12 bytes  width, height, tile side: uint32, little-endian
    8 bytes   a tile, row by row: offset in the file x 2^24 + length, uint64, little-endian
    ...       the tiles' codestreams, each with all its headers

A window is read with the index rows that it needs and its own tiles, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np

from inrwsi.formats.byterange import ByteRanges
from inrwsi.geometry import Rect, chunk_rect, grid_wh

_HEAD = struct.Struct("<4sIII")
_MAGIC = b"TLP1"
_LENGTH_BITS = 24


class BrokenPack(ValueError):
    """The file is no tile pack, or is cut short."""


def write(
    path: Path, pixels: np.ndarray, tile_px: int, encode: Callable[[np.ndarray], bytes | bytearray], *, threads: int
) -> None:
    """Code (h, w, 3) uint8 in tiles of `tile_px`, cut at the right and bottom edge, `threads` at a time."""
    wh = (pixels.shape[1], pixels.shape[0])

    def one(rect: Rect) -> bytes | bytearray:
        return encode(np.ascontiguousarray(pixels[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]))

    with ThreadPoolExecutor(threads) as pool:
        tiles = list(pool.map(one, _rects(wh, tile_px)))
    offset = _HEAD.size + 8 * len(tiles)
    entries = []
    for tile in tiles:
        if len(tile) >= 1 << _LENGTH_BITS:
            raise BrokenPack(f"a tile of {len(tile)} bytes is too large for the index")
        entries.append(offset << _LENGTH_BITS | len(tile))
        offset += len(tile)
    with open(path, "wb") as file:
        file.write(_HEAD.pack(_MAGIC, *wh, tile_px))
        file.write(np.array(entries, "<u8").tobytes())
        file.writelines(tiles)


class TilePack:
    """An open pack. Every byte is read through `ranges`, so that a caller can count them."""

    def __init__(self, ranges: ByteRanges) -> None:
        self._ranges = ranges
        head = ranges.read(0, _HEAD.size)
        if len(head) < _HEAD.size or head[:4] != _MAGIC:
            raise BrokenPack(f"{ranges.name}: is no tile pack")
        _, width, height, self.tile_px = _HEAD.unpack(head)
        self.wh = (width, height)
        self.grid_wh = grid_wh(self.wh, self.tile_px)
        if ranges.size < _HEAD.size + 8 * self.grid_wh[0] * self.grid_wh[1]:
            raise BrokenPack(f"{ranges.name}: is cut short")

    def lengths(self) -> np.ndarray:
        """Bytes of each tile, (rows, columns) int64."""
        columns, rows = self.grid_wh
        return np.array([self._row(j, 0, columns) for j in range(rows)])[..., 1]

    def read(self, window: Rect, decode: Callable[[bytes], np.ndarray], *, threads: int) -> np.ndarray:
        """The window, (h, w, 3) uint8, from the tiles that it touches.

        Raises:
            BrokenPack: a tile is cut short, or decodes to another shape or dtype than the picture's.
        """
        p = self.tile_px
        first_i, last_i = window.x // p, (window.x + window.w - 1) // p
        wanted: list[tuple[Rect, bytes]] = []
        for j in range(window.y // p, (window.y + window.h - 1) // p + 1):
            for i, (offset, length) in enumerate(self._row(j, first_i, last_i + 1), first_i):
                data = self._ranges.read(offset, length)
                if len(data) < length:
                    raise BrokenPack(f"{self._ranges.name}: is cut short in tile ({i}, {j})")
                wanted.append((chunk_rect(self.wh, p, (i, j)), data))
        out = np.empty((window.h, window.w, 3), np.uint8)

        def place(item: tuple[Rect, bytes]) -> None:
            rect, data = item
            tile = decode(data)
            if tile.shape != (rect.h, rect.w, 3) or tile.dtype != np.uint8:
                raise BrokenPack(f"a tile of {rect.w} x {rect.h} pixels decodes to {tile.dtype} {tile.shape}")
            cut = rect.intersect(window)
            out[cut.y - window.y :, cut.x - window.x :][: cut.h, : cut.w] = tile[cut.y - rect.y :, cut.x - rect.x :][
                : cut.h, : cut.w
            ]

        _run_all(place, wanted, threads)
        return out

    def _row(self, j: int, first: int, stop: int) -> list[tuple[int, int]]:
        raw = self._ranges.read(_HEAD.size + 8 * (j * self.grid_wh[0] + first), 8 * (stop - first))
        return [(v >> _LENGTH_BITS, v & ((1 << _LENGTH_BITS) - 1)) for v in np.frombuffer(raw, "<u8").tolist()]


def _run_all(work: Callable[[tuple[Rect, bytes]], None], items: list[tuple[Rect, bytes]], threads: int) -> None:
    if len(items) == 1:
        work(items[0])
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass


def _rects(wh: tuple[int, int], tile_px: int) -> Iterator[Rect]:
    columns, rows = grid_wh(wh, tile_px)
    for j, i in product(range(rows), range(columns)):
        yield chunk_rect(wh, tile_px, (i, j))
