"""By how much a chunk's scale indices are off: side information that the chunk brings, where the networks do not know.

The networks foresee how far coefficients scatter from what lies below a chunk, and are wrong where it is unlike what
they were trained on: by 0.5 % of bits on slides that they know, 2 % on others. So each band of a pass says by how many
scales, once for narrow ones and once for wide ones. These symbols come first in the pass.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from inrwsi.coding.tables import MOST_SCALES, FrequencyTables, quantiser_rows

OWN_SCALE = 24  # of the shifts' symbols: 0 costs 0.6 bits, 1 costs 2.7, 4 costs 12
WIDE_FROM = 32  # one class alone gains a tenth less, and so do two that part at 24 or 38
LAST_SCALE = MOST_SCALES - 1
MOST_SHIFT = 7  # that an encoder looks at
_COST_UNIT = 256  # of a bit
_JIT = {"nogil": True, "cache": True, "boundscheck": False}


def own_scales(bands: int) -> np.ndarray:
    """(2 bands,) uint8: scale indices of the shifts that a pass begins with."""
    return np.full(2 * bands, OWN_SCALE, np.uint8)


def shifted(scales: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The scale indices that a pass is coded with.

    Args:
        scales: (n,) uint8 as the networks say, 0 to 63, band after band at each site. 0, for skipped, stays 0.
        shifts: (2 bands,) int32, of each band for indices below `WIDE_FROM`, then of each for the others.

    Returns:
        (n,) uint8.

    Raises:
        ValueError: a shift beyond +-63.
    """
    most = int(np.abs(shifts).max())
    if most > LAST_SCALE:
        raise ValueError(f"scales shift by {most}, should by at most {LAST_SCALE}")
    if most == 0:
        return scales
    return _shifted(scales, shifts)


def best(
    symbols: np.ndarray, scales: np.ndarray, bands: int, tables: FrequencyTables, second: np.ndarray | None = None
) -> np.ndarray:
    """The shifts with which a pass takes fewest bits, as `shifted` takes them; (n,) symbols, band after band.

    Args:
        second: (n,) uint8, 1 where a symbol is of a trellis's second quantiser.
    """
    costs, zero = _costs_by_shift(tables), tables.limit
    own = costs[OWN_SCALE, zero - MOST_SHIFT : zero + MOST_SHIFT + 1, MOST_SHIFT]
    rows = scales if second is None else quantiser_rows(scales, second)
    found = _costs(symbols, scales, rows, bands, costs) + own
    return (found.argmin(1) - MOST_SHIFT).astype(np.int32)


@lru_cache(maxsize=2)
def _costs_by_shift(tables: FrequencyTables) -> np.ndarray:
    """(rows, 2 L + 2, 2 MOST_SHIFT + 1) int32: what each symbol costs at each shift of its scale index."""
    bits = tables.bits()
    bits[::MOST_SCALES] = 0  # of the skipped symbols, for which nobody asks
    whole = np.rint(bits * _COST_UNIT).astype(np.int32)  # integers: their sums are the same on every machine
    quantiser, scale = np.divmod(np.arange(len(bits)), MOST_SCALES)
    moved = (scale[:, None] + np.arange(-MOST_SHIFT, MOST_SHIFT + 1)).clip(1, LAST_SCALE)
    return np.ascontiguousarray(whole[quantiser[:, None] * MOST_SCALES + moved].transpose(0, 2, 1))


@njit(**_JIT)
def _shifted(scales: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    bands = len(shifts) // 2
    moved = np.zeros((bands, LAST_SCALE + 1), np.uint8)
    for b in range(bands):
        for scale in range(1, LAST_SCALE + 1):
            shift = shifts[b + bands] if scale >= WIDE_FROM else shifts[b]
            moved[b, scale] = min(max(scale + shift, 1), LAST_SCALE)
    out = np.empty(len(scales), np.uint8)
    for begin in range(0, len(scales), bands):
        for b in range(bands):
            out[begin + b] = moved[b, scales[begin + b]]
    return out


@njit(**_JIT)
def _costs(symbols: np.ndarray, scales: np.ndarray, rows: np.ndarray, bands: int, costs: np.ndarray) -> np.ndarray:
    """(2 bands, shifts) int64: what a pass's symbols cost at each shift, of narrow scales and of wide ones."""
    limit = costs.shape[1] // 2 - 1
    out = np.zeros((2 * bands, costs.shape[2]), np.int64)
    for begin in range(0, len(symbols), bands):
        for b in range(bands):
            scale, symbol = scales[begin + b], symbols[begin + b]
            if scale == 0:
                continue
            column = symbol + limit if -limit <= symbol <= limit else 2 * limit + 1
            row = b + bands if scale >= WIDE_FROM else b
            for k in range(costs.shape[2]):
                out[row, k] += costs[rows[begin + b], column, k]
    return out
