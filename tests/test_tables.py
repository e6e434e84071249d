"""Frequency tables: what may be one, how probabilities become one, and what its lay-out says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inrwsi.coding.tables import BUCKET_BITS, PRECISION_BITS, TOTAL, FrequencyTables, logistic_pmf, quantise_pmf

LIMIT = 3


def rows(n_scales: int = 2) -> np.ndarray:
    """(n_scales, 8) valid frequencies of L = 3, without a column for -3 and 2."""
    return np.tile(np.array([0, 5, 100, TOTAL - 138, 30, 0, 1, 2], np.uint16), (n_scales, 1))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (rows().astype(np.int32), "array of uint16"),
        (rows()[0], "array of uint16"),
        (rows().tolist(), "array of uint16"),
        (rows()[:0], "0 x 8, should have 1 to 64 rows"),
        (rows(65), "65 x 8"),
        (np.zeros((1, 7), np.uint16), "1 x 7"),
        (np.zeros((1, 2), np.uint16), "1 x 2"),
        (np.zeros((1, 258), np.uint16), "1 x 258"),
        (rows() + np.eye(2, 8, dtype=np.uint16)[::-1], f"scale 0 sum to {TOTAL + 1}, should be {TOTAL}"),
        (np.array([rows(1)[0], [0, 0, 0, TOTAL, 0, 0, 0, 0]], np.uint16), "scale 1 has no frequency for the escape"),
    ],
)
def test_wrong_frequencies_are_refused(wrong: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FrequencyTables.from_frequencies(wrong)


def test_layout_gives_every_slot_to_one_symbol_and_the_first_ones_to_0() -> None:
    frequencies = rows(3)
    tables = FrequencyTables.from_frequencies(frequencies)
    assert (tables.n_scales, tables.limit) == (3, LIMIT)
    first, freq = tables.spans[1] >> 16, tables.spans[1] & 0xFFFF
    assert (freq == frequencies[1]).all()
    assert first[LIMIT] == 0
    assert tables.zero[1] == frequencies[1, LIMIT]
    column_of = np.full(TOTAL, -1)
    for column in range(2 * LIMIT + 2):
        own = column_of[int(first[column]) : int(first[column]) + int(freq[column])]
        assert (own == -1).all()
        own[:] = column
    assert column_of.min() >= 0
    zero, width = int(tables.zero[1]), 1 << BUCKET_BITS
    for bucket, begin in enumerate(range(0, TOTAL, width)):
        if begin + width > zero:  # another is never asked
            assert tables.begins[1, bucket] == column_of[max(begin, zero)]


def test_tables_are_a_copy_and_cannot_be_written() -> None:
    frequencies = rows()
    tables = FrequencyTables.from_frequencies(frequencies)
    frequencies[:] = 0
    assert tables.frequencies.sum() == 2 * TOTAL
    for array in (tables.frequencies, tables.zero, tables.spans, tables.begins):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_bits() -> None:
    bits = FrequencyTables.from_frequencies(rows()).bits()
    assert bits[0].tolist() == [math.inf] * LIMIT + [0] + [math.inf] * (LIMIT + 1)
    escape = PRECISION_BITS - 1
    assert bits[1, 6:].tolist() == [PRECISION_BITS, escape]
    assert bits[1, 0] == bits[1, 5] == escape + 8
    assert bits[1, 2] == pytest.approx(PRECISION_BITS - math.log2(100))


def test_bits_of_a_far_symbol_count_both_its_bytes() -> None:
    frequencies = np.zeros((2, 256), np.uint16)
    frequencies[:, 127], frequencies[:, 255] = TOTAL - 4, 4
    bits = FrequencyTables.from_frequencies(frequencies).bits()
    assert bits[1, 127 - 64] == bits[1, 127 + 63] == 13 + 8
    assert bits[1, 127 - 65] == bits[1, 127 + 64] == bits[1, 0] == 13 + 16


def test_quantised_rows_sum_up_and_come_near() -> None:
    rng = np.random.default_rng(4)
    pmf = rng.random((40, 32)) ** rng.integers(1, 60, (40, 1))
    frequencies = quantise_pmf(pmf)
    assert frequencies.dtype == np.uint16
    FrequencyTables.from_frequencies(frequencies)
    # the escape's 1 may have to come from the largest
    error = frequencies[:, :-1] / TOTAL - (pmf / pmf.sum(axis=1, keepdims=True))[:, :-1]
    assert np.abs(error).max() < 2 / TOTAL


def test_largest_remainders_win_and_ties_go_to_the_first() -> None:
    pmf = np.array([[0.5, 0.5, TOTAL - 4.5, 1.7, 0.8, 1.0]])
    assert quantise_pmf(pmf)[0].tolist() == [1, 0, TOTAL - 5, 2, 1, 1]


@pytest.mark.parametrize("place", [0, 2, 3])
def test_a_certain_symbol_leaves_the_escape_its_1(place: int) -> None:
    pmf = np.zeros((1, 6))
    pmf[0, place] = 0.3
    expected = [0, 0, 0, 0, 0, 1]
    expected[place] = TOTAL - 1
    assert quantise_pmf(pmf)[0].tolist() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    pmf = np.ones((2, 6))
    pmf[1, 2] = bad
    with pytest.raises(ValueError, match="a row of probabilities is not finite, has a negative one or sums to 0"):
        quantise_pmf(pmf)
    with pytest.raises(ValueError, match="sums to 0"):
        quantise_pmf(np.zeros((1, 6)))
    with pytest.raises(ValueError, match="array of float64"):
        quantise_pmf(np.ones((2, 6), np.float32))


def test_logistic_probabilities() -> None:
    scales = np.array([1e-6, 0.05, 0.3, 1.0, 7.0, 1e6])
    pmf = logistic_pmf(scales, 5)
    assert pmf.sum(axis=1) == pytest.approx(np.ones(6), abs=1e-12)
    assert (pmf[:, :11] == pmf[:, 10::-1]).all()

    def cumulative(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert pmf[3, 5 + 2] == pytest.approx(cumulative(2.5) - cumulative(1.5), rel=1e-12)
    assert pmf[3, 5] == pytest.approx(cumulative(0.5) - cumulative(-0.5), rel=1e-12)
    assert pmf[3, 11] == pytest.approx(2 * cumulative(-5.5), rel=1e-12)
    # far out the difference of two values near 1 would be 0: P(3) is e**-50 but for a factor that is 1
    assert pmf[1, 5 + 3] == pytest.approx(math.exp(-2.5 / 0.05), rel=1e-8)
    assert pmf[0].tolist() == [0] * 5 + [1] + [0] * 6


@pytest.mark.parametrize(
    ("scales", "limit"), [([0.0], 5), ([math.nan], 5), ([1e7], 5), ([[1.0]], 5), ([1.0], 0), ([1.0], 128)]
)
def test_logistic_ranges(scales: list, limit: int) -> None:
    with pytest.raises(ValueError, match="should be"):
        logistic_pmf(np.array(scales), limit)


def test_precision_suits_peaked_rows() -> None:
    """P(0) = 0.999 costs within half a percent of its entropy: this is what PRECISION_BITS was chosen for."""
    pmf = logistic_pmf(np.array([0.25 / math.atanh(0.999)]), 127)
    frequencies = quantise_pmf(np.vstack((pmf, pmf)))
    cost = (pmf[0] * FrequencyTables.from_frequencies(frequencies).bits()[1]).sum()
    seen = pmf[0][pmf[0] > 0]
    entropy = -(seen * np.log2(seen)).sum()
    assert entropy < cost < 1.005 * entropy
