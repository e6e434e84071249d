"""The hash grid on CPU threads, compiled by numba. Same results, to the bit, as the torch operations of `encodings`.

Kernels release the interpreter's lock and plain threads run them: numba's own thread pools break when a process
forks or when two threads call at once, and a decoder inside data-loader workers does both.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor

from inrwsi.fields.encodings import HASH_PRIME_Y, HashGridConfig

CHUNK = 1024  # positions worked on level by level: their outputs and the coarse levels stay in a core's cache
SINGLE_THREAD_BELOW = 2048  # positions; starting threads costs as much as this
_LEVEL = np.dtype([("scale", "f8"), ("resolution", "i8"), ("entries", "i8"), ("offset", "i8"), ("hashed", "?")])


@lru_cache(maxsize=1)
def _half_values() -> np.ndarray:
    """Value of every float16 bit pattern as float32: numba has no float16 on CPUs."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)


@lru_cache(maxsize=64)
def _level_records(config: HashGridConfig) -> np.ndarray:
    rows = [(v.scale, v.resolution, v.entries, v.offset, v.hashed) for v in config.layout()]
    return np.array(rows, dtype=_LEVEL)


def _value(table: Any, half_values: Any, row: int, feature: int) -> Any:
    raise NotImplementedError("compiled code only")


@overload(_value, inline="always")
def _value_overload(table: Any, half_values: Any, row: int, feature: int) -> Callable[..., Any]:
    def half(table: Any, half_values: Any, row: int, feature: int) -> Any:
        return half_values[table[row, feature]]

    def plain(table: Any, half_values: Any, row: int, feature: int) -> Any:
        return table[row, feature]

    return half if table.dtype == types.uint16 else plain


@njit(nogil=True, cache=True)
def _locate(xy: Any, start: int, stop: int, scale: float, cells: Any, fractions: Any) -> None:
    """Cell and fraction of positions start..stop; as `encodings.corners` rounds them."""
    for n in range(stop - start):
        for axis in range(2):
            # Through the array, which rounds to its dtype.
            fractions[n, axis] = np.float64(xy[start + n, axis]) * scale + 0.5
            cell = np.floor(fractions[n, axis])
            cells[n, axis] = np.int64(cell)
            fractions[n, axis] -= cell


@njit(nogil=True, cache=True, inline="always")
def _rows(i: int, j: int, level: Any) -> tuple[int, int, int, int]:
    """Table rows of the vertices (i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)."""
    if level.hashed:
        mask = level.entries - 1
        low = j * HASH_PRIME_Y
        high = low + HASH_PRIME_Y
        row00, row10, row01, row11 = (
            (i ^ low) & mask,
            ((i + 1) ^ low) & mask,
            (i ^ high) & mask,
            ((i + 1) ^ high) & mask,
        )
    else:
        row00 = i + j * level.resolution
        row10, row01 = row00 + 1, row00 + level.resolution
        row11 = row01 + 1
        # Only the vertices past the last row or column wrap, and never twice: a subtraction is the modulus.
        row00 -= level.entries if row00 >= level.entries else 0
        row10 -= level.entries if row10 >= level.entries else 0
        row01 -= level.entries if row01 >= level.entries else 0
        row11 -= level.entries if row11 >= level.entries else 0
    return row00 + level.offset, row10 + level.offset, row01 + level.offset, row11 + level.offset


@njit(nogil=True, cache=True)
def _forward_range(
    table: Any, half_values: Any, xy: Any, start: int, stop: int, levels: Any, features: int, out: Any
) -> None:
    cells = np.empty((CHUNK, 2), np.int64)
    fractions = np.empty((CHUNK, 2), xy.dtype)
    one = xy.dtype.type(1)
    for first in range(start, stop, CHUNK):
        last = min(first + CHUNK, stop)
        for index in range(levels.shape[0]):
            level = levels[index]
            _locate(xy, first, last, level.scale, cells, fractions)
            for n in range(last - first):
                row00, row10, row01, row11 = _rows(cells[n, 0], cells[n, 1], level)
                fx, fy = fractions[n, 0], fractions[n, 1]
                gx, gy = one - fx, one - fy
                for f in range(features):
                    out[first + n, index * features + f] = (
                        _value(table, half_values, row00, f) * (gx * gy)
                        + _value(table, half_values, row10, f) * (fx * gy)
                        + _value(table, half_values, row01, f) * (gx * fy)
                        + _value(table, half_values, row11, f) * (fx * fy)
                    )


@njit(nogil=True, cache=True)
def _backward_levels(
    grad_out: Any, xy: Any, levels: Any, features: int, first_level: int, level_step: int, grad_table: Any
) -> None:
    cells = np.empty((CHUNK, 2), np.int64)
    fractions = np.empty((CHUNK, 2), xy.dtype)
    one = xy.dtype.type(1)
    for first in range(0, xy.shape[0], CHUNK):
        last = min(first + CHUNK, xy.shape[0])
        for index in range(first_level, levels.shape[0], level_step):
            level = levels[index]
            _locate(xy, first, last, level.scale, cells, fractions)
            for n in range(last - first):
                row00, row10, row01, row11 = _rows(cells[n, 0], cells[n, 1], level)
                fx, fy = fractions[n, 0], fractions[n, 1]
                gx, gy = one - fx, one - fy
                for f in range(features):
                    grad = grad_out[first + n, index * features + f]
                    grad_table[row00, f] += gx * gy * grad
                    grad_table[row10, f] += fx * gy * grad
                    grad_table[row01, f] += gx * fy * grad
                    grad_table[row11, f] += fx * fy * grad


def _in_threads(shares: list[tuple[Any, ...]], kernel: Callable[..., None]) -> None:
    if len(shares) == 1:
        kernel(*shares[0])
        return
    # A pool a call: one kept open would be dead, and waited for, in a forked child.
    with ThreadPoolExecutor(len(shares)) as pool:
        for done in [pool.submit(kernel, *share) for share in shares]:
            done.result()


def _thread_count(positions: int) -> int:
    return 1 if positions < SINGLE_THREAD_BELOW else torch.get_num_threads()


def forward(table: Tensor, xy: Tensor, config: HashGridConfig) -> Tensor:
    """Encode positions.

    Args:
        table: (entry_count, F) float16, float32 or float64 on the CPU, contiguous.
        xy: (N, 2) contiguous in [0, 1] (not checked here: `encodings.clamp_positions` does), float64 for a float64
            table, float32 otherwise.
        config: the shape of the grid.

    Returns:
        (N, levels * features) in the dtype of xy.
    """
    count = xy.shape[0]
    out = xy.new_empty(count, config.outputs)
    source = table.detach()
    values = source.view(torch.uint16).numpy() if source.dtype == torch.float16 else source.numpy()
    share = -(-count // (_thread_count(count) * CHUNK)) * CHUNK
    shared = (_level_records(config), config.features, out.numpy())
    shares: list[tuple[Any, ...]] = [
        (values, _half_values(), xy.numpy(), start, min(start + share, count), *shared)
        for start in range(0, count, share or 1)
    ]
    if shares:
        _in_threads(shares, _forward_range)
    return out


def backward(grad_out: Tensor, xy: Tensor, config: HashGridConfig, grad_table: Tensor) -> None:
    """Add the table's gradient into `grad_table`; all tensors contiguous and of the dtype of xy.

    A level belongs to one thread, which takes positions in order: the number of threads does not change the bits.
    """
    threads = min(_thread_count(xy.shape[0]), config.levels)
    levels = _level_records(config)
    shares: list[tuple[Any, ...]] = [
        (grad_out.numpy(), xy.numpy(), levels, config.features, first, threads, grad_table.numpy())
        for first in range(threads)
    ]
    _in_threads(shares, _backward_levels)
