"""Integer frequency tables of the entropy coder: made once, in floats, when a prior is made; only integers after that.

A table set has a row for each scale index. Its columns are the symbols -L..L and, last, the escape, which stands for
every value that the row has no frequency for. A row sums to 2**PRECISION_BITS. Row 0 means "skipped": the symbol is 0,
no bits are spent, and nobody reads the row. Where a trellis chooses between two quantisers (`coding.trellis`) the
second's rows, as many, follow the first's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Of 12 to 15: with 12 bits the escape and the rounding cost 2.8 % of a row of P(0) = 0.999 and half of one of 0.9999,
# with 15 bits 0.4 % and 4 %, for a tenth of the speed. More would round worse in states of 32 bits, which costs 0.05 %
# as it is. A part of the file format, and of machine code that numba keeps by the text of rans.py alone.
PRECISION_BITS = 15
TOTAL = 1 << PRECISION_BITS
# Slots that share where the search for their column begins. A table of all slots takes 4 MB: beside a chunk's other
# work it falls out of the caches, and decoding takes three times as long. Kept in machine code by rans.py's text, too.
BUCKET_BITS = 7
MOST_SCALES = 64
MOST_L = 127
VARINT_BITS = 8  # an escaped value follows its escape in LEB128 bytes, each coded as 8 plain bits


def quantiser_rows(scales: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows of the tables, (n,) uint8, for scale indices (n,) uint8; `second` (n,) is 1 for the second quantiser."""
    return scales + second * np.uint8(MOST_SCALES)


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """Frequencies and what the coder looks up in them; make it with `from_frequencies`. All arrays are read-only.

    Attributes:
        frequencies: (rows, 2L + 2) uint16, each row's sum is TOTAL.
        zero: (rows,) uint16, of symbol 0, which takes the slots from 0 on, so that one comparison finds it.
        spans: (rows, 2L + 2) uint32: first slot of a column << 16 | its frequency.
        begins: (rows, TOTAL >> BUCKET_BITS) uint8: of each bucket of slots, the column of the first of them that is not
            symbol 0's. The slots are symbol 0's, then the others' in their order.
    """

    frequencies: np.ndarray
    zero: np.ndarray
    spans: np.ndarray
    begins: np.ndarray

    @property
    def n_scales(self) -> int:
        """Number of rows, with that of the skipped symbols; of each quantiser where there are two."""
        return min(self.frequencies.shape[0], MOST_SCALES)

    @property
    def two(self) -> bool:
        """Whether there are rows for a second quantiser."""
        return self.frequencies.shape[0] == 2 * MOST_SCALES

    @property
    def limit(self) -> int:
        """L: the largest magnitude that has a column."""
        return self.frequencies.shape[1] // 2 - 1

    @classmethod
    def from_frequencies(cls, frequencies: np.ndarray) -> FrequencyTables:
        """Check the frequencies and lay them out for the coder.

        Args:
            frequencies: (rows, 2L + 2) uint16, 1 to 64 rows, or 128 of two quantisers; L from 1 to 127.

        Raises:
            ValueError: wrong dtype or shape, a row that does not sum to TOTAL, or whose escape is 0.
        """
        _check_shape(frequencies, np.dtype(np.uint16))
        sums = frequencies.sum(axis=1, dtype=np.int64)
        if (sums != TOTAL).any():
            row = int(np.argmax(sums != TOTAL))
            raise ValueError(f"frequencies of scale {row} sum to {sums[row]}, should be {TOTAL}")
        if (frequencies[:, -1] == 0).any():
            raise ValueError(f"scale {int(np.argmax(frequencies[:, -1] == 0))} has no frequency for the escape")
        n_rows, n_columns = frequencies.shape
        middle = n_columns // 2 - 1
        order = np.r_[middle, 0:middle, middle + 1 : n_columns]
        ordered = frequencies[:, order].astype(np.uint32)
        spans = np.empty((n_rows, n_columns), np.uint32)
        spans[:, order] = (np.cumsum(ordered, axis=1, dtype=np.uint32) - ordered) << 16 | ordered
        columns = np.repeat(np.tile(order.astype(np.uint8), n_rows), ordered.ravel()).reshape(n_rows, TOTAL)
        zero = frequencies[:, middle]
        # A bucket of symbol 0 alone is never asked: any column serves.
        first = np.maximum(np.arange(0, TOTAL, 1 << BUCKET_BITS), zero[:, None])
        begins = np.take_along_axis(columns, first, axis=1)
        return cls(*(_frozen(a) for a in (frequencies, zero, spans, begins)))

    def bits(self) -> np.ndarray:
        """What each symbol costs, (rows, 2L + 2) float64: for an encoder's choices, never for a reported size.

        A symbol of frequency 0 costs an escape and its bytes; the last column is an escape without its bytes. In the
        rows of skipped symbols symbol 0 costs nothing and all others are infinite.
        """
        with np.errstate(divide="ignore"):
            cost = PRECISION_BITS - np.log2(self.frequencies.astype(np.float64))
        y = np.arange(-self.limit, self.limit + 1)
        # zigzag codes of 128 and more take a second LEB128 byte; none of these symbols needs a third
        varint_bits = np.where((y < -64) | (y > 63), 2 * VARINT_BITS, VARINT_BITS)
        plain = cost[:, :-1]
        cost[:, :-1] = np.where(np.isfinite(plain), plain, cost[:, -1:] + varint_bits)
        cost[::MOST_SCALES] = np.inf
        cost[::MOST_SCALES, self.limit] = 0.0
        return cost


def quantise_pmf(pmf: np.ndarray) -> np.ndarray:
    """Probabilities to frequencies, by largest remainder; ties go to the first column.

    Frequencies may be 0, but for the escape's, which is at least 1.

    Args:
        pmf: (rows, 2L + 2) float64, finite and not negative, of any positive sum.

    Returns:
        (rows, 2L + 2) uint16, each row's sum is TOTAL.

    Raises:
        ValueError: wrong dtype or shape, or a row that holds no probabilities.
    """
    _check_shape(pmf, np.dtype(np.float64))
    if not np.isfinite(pmf).all() or (pmf < 0).any() or not (pmf.sum(axis=1) > 0).all():
        raise ValueError("a row of probabilities is not finite, has a negative one or sums to 0")
    target = pmf / pmf.sum(axis=1, keepdims=True) * TOTAL
    floors = np.floor(target)
    remainders = target - floors
    forced = floors[:, -1] == 0
    floors[forced, -1], remainders[forced, -1] = 1, -1.0
    frequencies = floors.astype(np.int64)
    for row, missing in enumerate(TOTAL - frequencies.sum(axis=1)):
        if missing > 0:
            frequencies[row, np.argsort(-remainders[row], kind="stable")[:missing]] += 1
        else:  # the escape's 1 came on top of a row that was full
            frequencies[row, np.argmax(frequencies[row])] += missing
    return frequencies.astype(np.uint16)


def logistic_pmf(scales: np.ndarray, limit: int) -> np.ndarray:
    """Rounded logistic variables of mean 0: P(y) = S((y + 1/2) / s) - S((y - 1/2) / s), S the logistic function.

    Args:
        scales: (n_scales,) float64, from 1e-6 to 1e6.
        limit: L, from 1 to 127.

    Returns:
        (n_scales, 2L + 2) float64; the last column holds both tails beyond L.

    Raises:
        ValueError: a scale or a limit is out of range.
    """
    scales = np.asarray(scales, np.float64)
    if scales.ndim != 1 or not ((scales >= 1e-6) & (scales <= 1e6)).all():
        raise ValueError("logistic scales should be a list of numbers from 1e-6 to 1e6")
    if not 1 <= limit <= MOST_L:
        raise ValueError(f"largest symbol is {limit}, should be from 1 to {MOST_L}")
    s = scales[:, None]
    magnitude = np.abs(np.arange(-limit, limit + 1))
    # From the side where both S are small: a difference of two numbers near 1 would lose the tails. An exponential
    # that underflows is a probability of 0, which it should be.
    with np.errstate(under="ignore"):
        near, far = np.exp(-(magnitude - 0.5) / s * (magnitude > 0)), np.exp(-(magnitude + 0.5) / s)
        pmf = near * -np.expm1(-1 / s) / ((1 + near) * (1 + far))
        pmf[:, limit] = np.tanh(0.25 / scales)
        tail = np.exp(-(limit + 0.5) / scales)
    return np.column_stack((pmf, 2 * tail / (1 + tail)))


def _check_shape(rows: np.ndarray, dtype: np.dtype) -> None:
    if not isinstance(rows, np.ndarray) or rows.dtype != dtype or rows.ndim != 2:
        raise ValueError(f"a table should be a two-dimensional array of {dtype}")
    n_rows, n_columns = rows.shape
    fits = 1 <= n_rows <= MOST_SCALES or n_rows == 2 * MOST_SCALES
    if not fits or n_columns % 2 or not 4 <= n_columns <= 2 * MOST_L + 2:
        wanted = f"1 to {MOST_SCALES} rows, or {2 * MOST_SCALES}, and 2L + 2 columns, L from 1 to {MOST_L}"
        raise ValueError(f"a table is {n_rows} x {n_columns}, should have {wanted}")


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, order="C")
    array.setflags(write=False)
    return array
