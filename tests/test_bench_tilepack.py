"""A pack reads what a window needs and not a byte more, and says when it is broken."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from inrwsi.benchmarks import tilepack
from inrwsi.benchmarks.codecs import area_mean, open_counted
from inrwsi.benchmarks.probe import CountedFile
from inrwsi.geometry import Rect

TILE = 64


def raw(tile: np.ndarray) -> bytes:
    """A codec without loss whose tiles differ in length: shape, then samples."""
    return struct.pack("<HH", *tile.shape[:2]) + tile.tobytes()


def unraw(data: bytes) -> np.ndarray:
    h, w = struct.unpack_from("<HH", data)
    return np.frombuffer(data, np.uint8, offset=4).reshape(h, w, 3)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)


@pytest.fixture
def pack(pixels: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "a.pack"
    tilepack.write(path, pixels, TILE, raw, threads=2)
    return path


def test_the_file_is_head_index_and_tiles(pixels: np.ndarray, pack: Path) -> None:
    data = pack.read_bytes()
    assert data[:16] == b"TLP1" + struct.pack("<III", 200, 150, TILE)
    lengths = [4 + 3 * h * w for h in (64, 64, 22) for w in (64, 64, 64, 8)]
    assert len(data) == 16 + 8 * 12 + sum(lengths)
    (first,) = struct.unpack_from("<Q", data, 16)
    assert (first >> 24, first & 0xFFFFFF) == (16 + 8 * 12, lengths[0])
    with CountedFile(pack) as file:
        assert tilepack.TilePack(open_counted(file)).lengths().ravel().tolist() == lengths


@pytest.mark.parametrize(
    ("window", "tiles", "rows"),
    [
        ((0, 0, 64, 64), [(64, 64)], 1),
        ((60, 60, 10, 10), [(64, 64)] * 4, 2),
        ((190, 140, 10, 10), [(22, 64), (22, 8)], 1),
    ],
)
def test_a_window_costs_its_tiles_and_their_index(
    pixels: np.ndarray, pack: Path, window: tuple[int, int, int, int], tiles: list[tuple[int, int]], rows: int
) -> None:
    x, y, w, h = window
    with CountedFile(pack) as file:
        found = tilepack.TilePack(open_counted(file)).read(Rect(*window), unraw, threads=2)
        assert np.array_equal(found, pixels[y : y + h, x : x + w])
        assert file.bytes_read == 16 + 8 * len(tiles) + sum(4 + 3 * a * b for a, b in tiles)


def test_broken_packs_are_told(pixels: np.ndarray, pack: Path, tmp_path: Path) -> None:
    whole = pack.read_bytes()
    broken = tmp_path / "broken"
    for data, said in ((whole[:10], "no tile pack"), (b"TLP2" + whole[4:], "no tile pack"), (whole[:60], "cut short")):
        broken.write_bytes(data)
        with CountedFile(broken) as file, pytest.raises(tilepack.BrokenPack, match=said):
            tilepack.TilePack(open_counted(file))
    broken.write_bytes(whole[:-1])
    with CountedFile(broken) as file:
        opened = tilepack.TilePack(open_counted(file))
        with pytest.raises(tilepack.BrokenPack, match=r"cut short in tile \(3, 2\)"):
            opened.read(Rect(0, 0, 200, 150), unraw, threads=1)
        with pytest.raises(tilepack.BrokenPack, match=r"64 x 64 pixels decodes to uint8 \(63, 64, 3\)"):
            opened.read(Rect(0, 0, 64, 64), lambda d: unraw(d)[1:], threads=1)


def test_area_mean_is_the_mean_rounded_half_up() -> None:
    pixels = np.array([[[0, 0, 255], [1, 2, 255]], [[1, 0, 255], [0, 0, 254]]], np.uint8)
    assert area_mean(pixels, 2).tolist() == [[[1, 1, 255]]]
    assert area_mean(pixels, 1) is pixels
