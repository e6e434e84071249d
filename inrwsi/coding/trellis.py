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


def _walk() -> np.ndarray:
    state = np.arange(STATES)
    turned, second = (np.array([int(s & bits).bit_count() & 1 for s in state]) for bits in (_TURNS, _SECOND))
    steps = 2 * state[:, None] % STATES + (np.arange(2) ^ turned[:, None])
    # Numbered anew, so that a state's last bit says which quantiser it has: those of the first are even.
    order = np.argsort(second, kind="stable").reshape(2, -1).T.reshape(-1)
    number = np.argsort(order)
    return number[steps[order]].astype(np.uint8)


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
    walk, ways = (_ONE, _ONE_FROM) if spacing is None else (WALK, _FROM)
    apart = (spacing or HALF) / 16
    _choose(wanted, means, scales, counts, worth, apart, bits_of(tables), walk, ways, count, states, symbols, second)
    return symbols, second


@lru_cache(maxsize=4)
def bits_of(tables: FrequencyTables) -> np.ndarray:
    """(1 or 2, 64, 2 L + 2) float32: what a symbol costs by each quantiser; of row 0, which nobody asks for, 0."""
    bits = tables.bits().reshape(-1, MOST_SCALES, 2 * tables.limit + 2)
    bits[:, 0] = 0
    return bits.astype(np.float32)


def _sources(walk: np.ndarray) -> np.ndarray:
    """(states, 2, 2): the two ways to each state: from where, and of which branch (2 times the quantiser, + parity)."""
    ways: list[list[tuple[int, int]]] = [[] for _ in walk]
    for state, nexts in enumerate(walk.tolist()):
        for parity in (0, 1):
            ways[nexts[parity]].append((state, 2 * (state & 1) + parity))
    return np.array(ways, np.int64)


_FROM = _sources(WALK)
_ONE = np.zeros((1, 2), np.uint8)
_ONE_FROM = _sources(_ONE)


@njit(**_JIT)
def _choose(
    wanted: np.ndarray,
    means: np.ndarray,
    scales: np.ndarray,
    counts: np.ndarray,
    worth: np.ndarray,
    spacing: float,
    bits: np.ndarray,
    walk: np.ndarray,
    ways: np.ndarray,
    count: int,
    states: np.ndarray,
    symbols: np.ndarray,
    second: np.ndarray,
) -> None:
    n, size = len(wanted), len(walk)
    limit = bits.shape[2] // 2 - 1
    cost = np.full((PATHS, size), 1e30)
    for path in range(PATHS):
        cost[path, states[path]] = 0.0
    after, branch = np.empty(size), np.empty(4)
    taken = np.empty((n, size), np.uint8)  # which of the two ways to a state is the cheaper
    found = np.empty((n, 4), np.int32)
    where = np.empty(n, np.int64)
    coded = 0
    for i in range(n):
        scale = scales[i]
        if scale == 0:
            continue
        where[coded] = i
        away = (wanted[i] - means[i] / 16.0) / spacing
        size_of, sign = abs(away), -1 if away < 0 else 1
        for b in range(2 * len(bits)):
            odd, parity = b >> 1, b & 1
            # Values of this branch lie four apart; the nearest, and the next one towards 0.
            first = 2.0 * parity if odd == 0 else 2.0 * parity - 1.0
            least = max(first, 0.0)
            near = max(4.0 * np.rint((size_of - first) / 4.0) + first, least)
            branch[b] = np.inf
            for _ in range(2):
                symbol = sign * int((near + odd) / 2.0) if near > 0 else 0
                if -limit <= symbol <= limit:
                    more = bits[odd, scale, symbol + limit]
                else:
                    more = bits[odd, scale, 2 * limit + 1] + _FAR_BITS
                total = counts[i] * ((size_of - near) * spacing) ** 2 + worth[i] * more
                if total < branch[b]:
                    branch[b], found[coded, b] = total, symbol
                if near <= least:
                    break
                near = max(near - 4.0, least)
        own = cost[(count + coded) % PATHS]
        for t in range(size):
            one = own[ways[t, 0, 0]] + branch[ways[t, 0, 1]]
            other = own[ways[t, 1, 0]] + branch[ways[t, 1, 1]]
            taken[coded, t] = other < one
            after[t] = min(one, other)
        own[:] = after
        coded += 1
    for path in range(PATHS):
        states[path] = np.argmin(cost[path])
    ends = states.copy()
    for k in range(coded - 1, -1, -1):
        path = (count + k) % PATHS
        way = ways[ends[path], taken[k, ends[path]]]
        symbols[where[k]] = found[k, way[1]]
        second[where[k]] = way[1] >> 1
        ends[path] = way[0]
