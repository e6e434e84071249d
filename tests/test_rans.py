"""The entropy coder: what it codes it decodes, in whatever pieces; its bytes are fixed; damage never gets further."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inrwsi.coding import rans
from inrwsi.coding.rans import LANES, MOST_MAGNITUDE, ONE_LANE_BYTES, Decoder, encode
from inrwsi.coding.tables import PRECISION_BITS, TOTAL, FrequencyTables, logistic_pmf, quantise_pmf
from tests.rans_streams import LIMIT, TABLES, decode, draw, integer_tables


def decode_plainly(payload: bytes, scales: np.ndarray, tables: FrequencyTables) -> list[int]:
    """The decoder again in plain Python, from its description."""
    lanes, begin = 1, 0
    if len(payload) > ONE_LANE_BYTES:
        lanes, begin = (1 if payload[0] == 16 else 4), 1
    lengths = [3 + (payload[0] >> lane & 1) for lane in range(4)] if lanes == 4 else []
    if lanes == 1:
        left = len(payload) - begin
        lengths = [left if left <= 4 else 3 if left % 2 else 4]
    states = []
    for length in lengths:
        states.append(int.from_bytes(payload[begin : begin + length], "little"))
        begin += length
    words = [int.from_bytes(payload[i : i + 2], "little") for i in range(begin, len(payload), 2)]
    columns = [tables.limit, *(c for c in range(2 * tables.limit + 2) if c != tables.limit)]

    def refill(x: int) -> int:
        return x << 16 | words.pop(0) if x < 1 << 16 and words else x

    symbols, lane = [], 0
    for scale in scales:
        if scale == 0:
            symbols.append(0)
            continue
        x, freqs = states[lane], [int(f) for f in tables.frequencies[scale]]
        slot, first = x % TOTAL, 0
        for column in columns:
            if slot < first + freqs[column]:
                break
            first += freqs[column]
        x = refill(freqs[column] * (x >> PRECISION_BITS) + slot - first)
        y = column - tables.limit
        if y > tables.limit:
            code, shift, byte = 0, 0, 128
            while byte >= 128:
                byte, x = x % 256, refill(x // 256)
                code, shift = code | (byte % 128) << shift, shift + 7
            y = code // 2 if code % 2 == 0 else -(code + 1) // 2
        symbols.append(y)
        states[lane], lane = x, (lane + 1) % lanes
    assert not words
    assert all(x == (0 if lanes == 1 else 1 << 16) for x in states)
    return symbols


COMMON = st.tuples(st.integers(0, 11), st.integers(-2, 2) | st.integers(-LIMIT - 2, LIMIT + 2))
RARE = st.tuples(st.integers(1, 11), st.integers(-MOST_MAGNITUDE, MOST_MAGNITUDE))


@given(st.lists(COMMON | COMMON | COMMON | RARE, max_size=200))
@settings(max_examples=100, deadline=None)
def test_round_trip(pairs: list[tuple[int, int]]) -> None:
    scales = np.array([scale for scale, _ in pairs], np.uint8)
    symbols = np.array([y if scale else 0 for scale, y in pairs], np.int32)
    payload = encode(symbols, scales, TABLES)
    found = decode(payload, scales)
    assert found.dtype == np.int32
    assert (found == symbols).all()
    assert decode_plainly(payload, scales, TABLES) == symbols.tolist()


@pytest.mark.parametrize("n", [1, 3, 1000, 40_000, 100_000])
def test_round_trip_of_long_streams_on_both_numbers_of_lanes(n: int) -> None:
    symbols, scales = draw(n, seed=n)
    payload = encode(symbols, scales, TABLES)
    assert (len(payload) > ONE_LANE_BYTES) == (n >= 40_000)
    assert (decode(payload, scales) == symbols).all()
    assert (decode(memoryview(payload), scales) == symbols).all()
    if n <= 40_000:
        assert decode_plainly(payload, scales, TABLES) == symbols.tolist()


@pytest.mark.parametrize("n", [3000, 60_000])
def test_pieces_decode_as_the_whole(n: int) -> None:
    symbols, scales = draw(n, seed=2)
    payload = encode(symbols, scales, TABLES)
    rng = np.random.default_rng(3)
    for mean in (1, 7, 500, 40_000):
        decoder, found, begin = Decoder(payload, TABLES), [], 0
        while begin < n:
            end = begin + int(rng.integers(0, 2 * mean + 1))
            found.append(decoder.decode(scales[begin:end]))
            begin = end
        decoder.finish()
        assert (np.concatenate(found) == symbols).all()


def test_widest_tables_and_the_last_scale() -> None:
    tables = integer_tables(64, 127)
    symbols, scales = draw(50_000, 6, tables)
    assert scales.max() == 63
    assert (decode(encode(symbols, scales, tables), scales, tables) == symbols).all()


def test_a_symbol_without_a_frequency_is_an_escape_be_it_0() -> None:
    frequencies = np.tile(np.array([9, 0, 0, TOTAL - 10, 1, 0, 0, 0], np.uint16), (2, 1))
    frequencies[:, -1], frequencies[:, 3] = 4, TOTAL - 14
    frequencies[1] = [9, 0, 7, 0, 1, 0, 0, TOTAL - 17]
    tables = FrequencyTables.from_frequencies(frequencies)
    symbols = np.array([0, 1, -1, -3, -2, 3, 2, 0, 64, -128], np.int32)
    scales = np.ones(10, np.uint8)
    assert (decode(encode(symbols, scales, tables), scales, tables) == symbols).all()


@pytest.mark.parametrize(("n", "scale"), [(0, 0), (5000, 0), (5000, 3)])
def test_nothing_but_zeros_is_no_bytes(n: int, scale: int) -> None:
    scales = np.full(n, scale, np.uint8)
    payload = encode(np.zeros(n, np.int16), scales, TABLES)
    assert payload == b""
    assert (decode(payload, scales) == 0).all()


# The same on every machine and in every version: these bytes are a file format.
@pytest.mark.parametrize(
    ("n", "n_bytes", "sha256"),
    [
        (2000, 545, "b8b9f584dc484859a1cb07ea7c6c2882be50e94cc40c27f7689744cfb8e351ce"),
        (60_000, 16_563, "2c0f2394529745ad8885ba8ddd007849b366ec57bf090eb6b351d5faf5301cc3"),
    ],
)
def test_golden_payload(n: int, n_bytes: int, sha256: str) -> None:
    x, symbols, scales = 12345, np.zeros(n, np.int32), np.zeros(n, np.uint8)
    for i in range(n):
        x = (x * 1103515245 + 12345) % 2**31
        scales[i] = (x >> 9) % 12
        x = (x * 1103515245 + 12345) % 2**31
        spread = 1 + (1 << int(scales[i])) // 128
        symbols[i] = 0 if scales[i] == 0 or (x >> 8) % 7 else (x >> 12) % (2 * spread + 1) - spread
        if i % 1000 == 999 and scales[i]:
            symbols[i] = (x >> 4) - 2**26
    payload = encode(symbols, scales, TABLES)
    assert (len(payload), hashlib.sha256(payload).hexdigest()) == (n_bytes, sha256)
    assert (decode(payload, scales) == symbols).all()


def ideal_bits(symbols: np.ndarray, scales: np.ndarray, tables: FrequencyTables) -> float:
    """Of symbols that all have a frequency."""
    return float(tables.bits()[scales, symbols + tables.limit].sum())


def logistic_stream(n: int, seed: int, widest: float) -> tuple[np.ndarray, np.ndarray, FrequencyTables]:
    """Symbols from tables of 20 scales, most of them narrow, none an escape."""
    widths = np.geomspace(0.05, widest, 20)
    tables = FrequencyTables.from_frequencies(quantise_pmf(logistic_pmf(np.concatenate(([1.0], widths)), 31)))
    rng = np.random.default_rng(seed)
    scales = np.minimum(rng.integers(0, 21, n), rng.integers(0, 21, n)).astype(np.uint8)
    symbols = np.rint(rng.logistic(size=n) * widths[np.maximum(scales, 1) - 1]).astype(np.int32)
    symbols = np.clip(symbols, -31, 31)
    symbols[(scales == 0) | (tables.frequencies[scales, symbols + 31] == 0)] = 0
    return symbols, scales, tables


@pytest.mark.parametrize("widest", [0.3, 3.0])
def test_size_is_that_of_another_ans_coder_within_a_thousandth(widest: float) -> None:
    import constriction

    symbols, scales, tables = logistic_stream(600_000, 1, widest)
    coder = constriction.stream.stack.AnsCoder()
    for scale in range(1, tables.n_scales):  # the order does not change the size, and one model a call is fast
        model = constriction.stream.model.Categorical(tables.frequencies[scale] / TOTAL, perfect=False)
        coder.encode_reverse(symbols[scales == scale] + tables.limit, model)
    theirs = coder.get_compressed().nbytes
    ours = len(encode(symbols, scales, tables))
    assert ours > 10_000
    assert abs(ours - theirs) < 0.001 * theirs + 16
    assert ours < 1.001 * ideal_bits(symbols, scales, tables) / 8 + 16


@pytest.mark.parametrize(("n", "most_over"), [(10, 3), (300, 3), (3000, 3.5), (20_000, 16)])
def test_small_streams_cost_little_more_than_their_bits(n: int, most_over: float) -> None:
    for seed in range(20):
        symbols, scales, tables = logistic_stream(n, seed, 8.0)
        assert len(encode(symbols, scales, tables)) < ideal_bits(symbols, scales, tables) / 8 * 1.0005 + most_over


def test_a_long_stream_of_one_lane() -> None:
    """Where four lanes come out at ONE_LANE_BYTES or below, and one lane above; no known stream does."""
    symbols, scales = draw(40_000, seed=13)
    coded = scales > 0
    values, rows = symbols[coded], scales[coded]
    states, words = rans._run(values, rows, values.size, TABLES, 1)
    payload = b"\x10" + rans._payload(states, words)
    assert len(payload) > ONE_LANE_BYTES
    assert (decode(payload, scales) == symbols).all()


def test_one_lane_above_its_bytes_gets_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols, scales = draw(400, seed=14)
    one_lane = encode(symbols, scales, TABLES)
    real = rans._payload
    monkeypatch.setattr(rans, "ONE_LANE_BYTES", len(one_lane) - 1)
    monkeypatch.setattr(rans, "_payload", lambda states, words: b"" if len(states) == LANES else real(states, words))
    payload = encode(symbols, scales, TABLES)
    assert payload == b"\x10" + one_lane
    assert (decode(payload, scales) == symbols).all()


def test_threads_decode_at_the_same_time() -> None:
    streams = [draw(40_000, seed) for seed in range(20, 28)]
    payloads = [encode(symbols, scales, TABLES) for symbols, scales in streams]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(decode, payloads * 3, [scales for _, scales in streams] * 3))
    for (symbols, _), result in zip(streams * 3, found, strict=True):
        assert (result == symbols).all()


@pytest.mark.parametrize(
    ("symbols", "scales", "sentence"),
    [
        (np.zeros(3, np.int32), np.zeros(2, np.uint8), r"symbols are int32\[3\], should be int32\[2\]"),
        (np.zeros(2, np.float32), np.zeros(2, np.uint8), "symbols are float32"),
        (np.zeros(2, np.int32), np.zeros(2, np.int32), "scale indices are int32"),
        (np.zeros((1, 2), np.int32), np.zeros((1, 2), np.uint8), "should be a list of uint8"),
        (np.zeros(2, np.int32), np.array([0, 12], np.uint8), "scale index 12, but the tables have 12"),
        (np.ones(2, np.int32), np.array([1, 0], np.uint8), "a symbol of scale 0 is not 0"),
        (np.full(2, MOST_MAGNITUDE + 1, np.int32), np.ones(2, np.uint8), "a symbol is beyond 1073741824"),
        (np.full(2, -(2**31), np.int32), np.ones(2, np.uint8), "a symbol is beyond 1073741824"),
    ],
)
def test_what_cannot_be_coded_is_refused(symbols: np.ndarray, scales: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        encode(symbols, scales, TABLES)


def test_the_decoder_refuses_scales_that_the_tables_lack() -> None:
    decoder = Decoder(b"", TABLES)
    with pytest.raises(ValueError, match="scale index 200, but the tables have 12"):
        decoder.decode(np.array([200], np.uint8))
    with pytest.raises(ValueError, match="should be a list of uint8"):
        decoder.decode(np.zeros(4, np.int64))


def test_symbols_and_scales_may_be_slices_that_cannot_be_written() -> None:
    symbols, scales = draw(2000, seed=15)
    expected = encode(symbols[::2].copy(), scales[::2].copy(), TABLES)
    symbols.setflags(write=False)
    scales.setflags(write=False)
    payload = encode(symbols[::2], scales[::2], TABLES)
    assert payload == expected
    assert (decode(payload, scales[::2]) == symbols[::2]).all()


def test_kernels_compile_where_nothing_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def unwritable(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", unwritable)
    double = rans._compiled(lambda x: 2 * x)
    assert double(21) == 42
