"""Trellis-coded quantisation: two quantisers that take turns, and which of them is next depends on what was chosen.

Both are twice as coarse as what they make up together. Of the first the values are 0, +-2, +-4 and so on, of the second
0, +-1, +-3 and so on, in units of the spacing. The path that a symbol's parity takes through STATES states says which
quantiser is next, so an encoder that looks ahead has the choice of nearly all values for the bits of half of them: up
to 1.25 dB at equal bits where there are many (Marcellin and Fischer 1990; Ungerboeck 1982, table I; with 0 in both, as
Schwarz et al. 2021 have it in VVC). Four paths take turns over the coded symbols, as the lanes of `rans` do.

The decoder knows the path as it reads, so each quantiser has frequency tables of its own. They are made for a spacing
of HALF; of others, scale indices are moved to where the tables have the same scale in spacings.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from inrwsi.coding.tables import MOST_SCALES, FrequencyTables

STATES = 64
PATHS = 4
HALF = 8  # the spacing at which the first quantiser's values are whole units, in 1 / 16
_TURNS, _SECOND = 48, 9  # bits of a state: found among all by search, 1.27 dB of the 1.53 that there are
_FLOOR, _OFFSET, _PER_E = 0.05, 33, 7  # a scale index stands for _FLOOR + e^((index - _OFFSET) / _PER_E) units
_FAR_BITS = 16.0  # that an escape costs beside its own, roughly
_JIT = {"nogil": True, "cache": True, "boundscheck": False}


# A state is a register of six bits, which the next parity is shifted into: other, where `_TURNED` is set.
_REGISTERS = np.arange(STATES)
_TURNED, _IS_SECOND = (np.array([int(s & bits).bit_count() & 1 for s in _REGISTERS]) for bits in (_TURNS, _SECOND))
# Numbered anew, so that a state's last bit says which quantiser it has: those of the first are even.
_ORDER = np.argsort(_IS_SECOND, kind="stable").reshape(2, -1).T.reshape(-1)


def _walk() -> np.ndarray:
    steps = 2 * _REGISTERS[:, None] % STATES + (np.arange(2) ^ _TURNED[:, None])
    return np.argsort(_ORDER)[steps[_ORDER]].astype(np.uint8)


WALK = _walk()
"""(STATES, 2) uint8: from a state, by a symbol's parity, to the next. An odd state has the second quantiser."""


@lru_cache(maxsize=8)
def own_scales(spacing: int) -> np.ndarray:
    """(64,) uint8: what becomes of each scale index where values are `spacing` apart, in 1 / 16 unit.

    The index whose scale is nearest, on the scale of the formula's exponent; 0, for skipped, below half of the first.
    """
    units = _FLOOR + np.exp((np.arange(MOST_SCALES) - _OFFSET) / _PER_E)
    bounds = _FLOOR + np.exp((np.arange(1, MOST_SCALES) - 0.5 - _OFFSET) / _PER_E)
    found = np.searchsorted(bounds, units * HALF / spacing, side="right").astype(np.uint8)
    found[0] = 0
    found.flags.writeable = False
    return found


def values(symbols: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What symbols (n,) stand for, in spacings: (n,) int32; `second` (n,) is 1 where one is of the second quantiser."""
    return 2 * symbols - np.sign(symbols) * second.astype(np.int32)


def choose(
    wanted: np.ndarray,
    means: np.ndarray,
    scales: np.ndarray,
    counts: np.ndarray,
    worth: np.ndarray,
    spacing: int | None,
    tables: FrequencyTables,
    begun: tuple[int, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """The symbols of a pass that cost least: squared error, and bits (Viterbi 1967).

    Args:
        wanted: (n,) float32, in units.
        means: (n,) int32, in 1 / 16 unit.
        scales: (n,) uint8 rows of the first quantiser; of row 0 the symbol is 0 and takes no part.
        counts: (n,) float32, what a squared unit of error counts.
        worth: (n,) float32, what a bit counts.
        spacing: of values, in 1 / 16 unit; None: there is no trellis, but one quantiser of whole units.
        tables: of both quantisers, the second's rows after the first's.
        begun: coded symbols before these, and (PATHS,) uint8 the states they left; which are moved on.

    Returns:
        Symbols (n,) int32, and (n,) uint8: 1 where they are of the second quantiser.
    """
    count, states = begun
    symbols, second = np.zeros(len(wanted), np.int32), np.zeros(len(wanted), np.uint8)
    quantisers = 1 if spacing is None else 2
    bits, apart = bits_of(tables)[:quantisers], (spacing or HALF) / 16
    coded, costs, found = _branches(wanted, means, scales, counts, worth, apart, bits)
    best = costs.argmin(axis=1) if spacing is None else _best(costs, count, states)
    symbols[coded] = np.take_along_axis(found, best[:, None], axis=1)[:, 0]
    second[coded] = best >> 1
    return symbols, second


@lru_cache(maxsize=4)
def bits_of(tables: FrequencyTables) -> np.ndarray:
    """(1 or 2, 64, 2 L + 2) float32: what a symbol costs by each quantiser; of row 0, which nobody asks for, 0."""
    bits = tables.bits().reshape(-1, MOST_SCALES, 2 * tables.limit + 2)
    bits[:, 0] = 0
    return bits.astype(np.float32)


@njit(**_JIT)
def _branches(
    wanted: np.ndarray,
    means: np.ndarray,
    scales: np.ndarray,
    counts: np.ndarray,
    worth: np.ndarray,
    spacing: float,
    bits: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which symbols are coded, (k,); of each quantiser and parity what they cost at least, and the symbol that does.

    The last two are (k, 2 or 4), float64 and int32: twice the quantiser, plus the parity.
    """
    count = 2 * len(bits)
    limit = bits.shape[2] // 2 - 1
    coded = np.flatnonzero(scales)
    costs, found = np.empty((len(coded), count)), np.empty((len(coded), count), np.int32)
    for k in range(len(coded)):
        i = coded[k]
        away = (wanted[i] - means[i] / 16.0) / spacing
        size_of, sign = abs(away), -1 if away < 0 else 1
        for b in range(count):
            odd, parity = b >> 1, b & 1
            # Values of this branch lie four apart; the nearest, and the next one towards 0.
            first = float(2 * parity - odd)
            least = max(first, 0.0)
            near = max(4.0 * np.rint((size_of - first) / 4.0) + first, least)
            cheapest, best = np.inf, 0
            for value in (near, max(near - 4.0, least)):
                symbol = sign * int((value + odd) / 2.0)
                far = abs(symbol) > limit
                taken = bits[odd, scales[i], 2 * limit + 1 if far else symbol + limit] + (_FAR_BITS if far else 0.0)
                cost = counts[i] * ((size_of - value) * spacing) ** 2 + worth[i] * taken
                if cost < cheapest:
                    cheapest, best = cost, symbol
            costs[k, b], found[k, b] = cheapest, best
    return coded, costs, found


@njit(**_JIT)
def _best(branches: np.ndarray, count: int, states: np.ndarray) -> np.ndarray:
    """The branches (n,) along the cheapest way of each path, for branches that cost (n, 4); `states` are moved on.

    States are registers here: to 2 j and 2 j + 1 lead j and j + 32 alone, which is done for all in vectors. Both have
    the same quantiser, and one of them turns the parity: their first bit is of `_TURNS` and not of `_SECOND`.
    """
    n, half = len(branches), STATES // 2
    cost = np.full((PATHS, STATES), 1e30)
    for path in range(PATHS):
        cost[path, _ORDER[states[path]]] = 0.0
    low, high = np.empty(half), np.empty(half)
    taken = np.empty((n, STATES), np.bool_)  # whether the upper of the two is the cheaper
    for k in range(n):
        own = cost[(count + k) % PATHS]
        even, odd, second_even, second_odd = branches[k]
        low[:], high[:] = own[:half], own[half:]
        for j in range(half):
            stays = second_even if _IS_SECOND[j] else even
            turns = second_odd if _IS_SECOND[j] else odd
            one, other = (turns, stays) if _TURNED[j] else (stays, turns)
            lower, lower_next, upper, upper_next = low[j] + one, low[j] + other, high[j] + other, high[j] + one
            own[2 * j], own[2 * j + 1] = min(lower, upper), min(lower_next, upper_next)
            taken[k, 2 * j], taken[k, 2 * j + 1] = upper < lower, upper_next < lower_next
    ends = np.empty(PATHS, np.int64)
    for path in range(PATHS):
        states[path] = np.argmin(cost[path][_ORDER])
        ends[path] = _ORDER[states[path]]
    best = np.empty(n, np.int64)
    for k in range(n - 1, -1, -1):
        path = (count + k) % PATHS
        end = ends[path]
        ends[path] = end // 2 + half * taken[k, end]
        best[k] = 2 * _IS_SECOND[ends[path]] + ((end & 1) ^ _TURNED[ends[path]])
    return best
