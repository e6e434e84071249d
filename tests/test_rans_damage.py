"""Payloads that are damaged, forged or not payloads at all are refused, or give symbols."""

from __future__ import annotations

import numpy as np
import pytest

from inrwsi.coding.rans import MOST_MAGNITUDE, ONE_LANE_BYTES, Decoder, encode
from inrwsi.coding.tables import PRECISION_BITS
from tests.rans_streams import TABLES, decode, draw


def attempt(payload: bytes, scales: np.ndarray) -> np.ndarray | None:
    """Symbols, or None if the payload was refused."""
    try:
        return decode(payload, scales)
    except ValueError:
        return None


@pytest.mark.parametrize("n", [300, 40_000])
def test_every_truncation_is_refused_or_gives_symbols(n: int) -> None:
    symbols, scales = draw(n, seed=8)
    payload = encode(symbols, scales, TABLES)
    lengths = range(len(payload)) if n == 300 else [*range(40), *range(ONE_LANE_BYTES - 20, len(payload), 7)]
    for length in lengths:
        found = attempt(payload[:length], scales)
        assert found is None or (found.shape == symbols.shape and (found != symbols).any())
    assert attempt(payload + b"\1\1", scales) is None


@pytest.mark.parametrize("n", [600, 40_000])
def test_corruptions_are_refused_or_give_symbols(n: int) -> None:
    symbols, scales = draw(n, seed=9)
    payload = np.frombuffer(encode(symbols, scales, TABLES), np.uint8)
    rng = np.random.default_rng(10)
    refused = 0
    for _ in range(1000):
        damaged = payload.copy()
        where = rng.integers(0, payload.size if rng.random() < 0.5 else 20, rng.integers(1, 5))
        damaged[where] ^= rng.integers(1, 256, where.size, dtype=np.uint8)
        found = attempt(damaged.tobytes(), scales)
        assert found is None or found.shape == symbols.shape
        refused += found is None
    assert refused > 950


def test_noise_is_refused_or_gives_symbols() -> None:
    rng = np.random.default_rng(11)
    scales = rng.integers(0, 12, 3000).astype(np.uint8)
    for n_bytes in [*range(30), *rng.integers(30, 2 * ONE_LANE_BYTES, 200)]:
        attempt(rng.bytes(n_bytes), scales)
        attempt(bytes([rng.integers(0, 18)]) + b"\xff" * int(n_bytes), scales)
        attempt(bytes(n_bytes), scales)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"\1\0", "state 0 of coded symbols ends with a zero byte"),
        (b"\1\2\0\4\5", "state 0 of coded symbols ends with a zero byte"),
        (bytes([17]) + b"\1" * ONE_LANE_BYTES, "begin with 17, should be at most 16"),
        (b"\1" + b"\1" * ONE_LANE_BYTES, "end with half a word"),
        (b"\0" * (ONE_LANE_BYTES + 1), "state 0 of coded symbols ends with a zero byte"),
    ],
)
def test_what_cannot_be_a_payload_is_refused_at_once(payload: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Decoder(payload, TABLES)


def forged(code_bytes: bytes) -> bytes:
    """One escape of scale 1 and these bytes after it."""
    x, words = 0, b""
    for byte in reversed(code_bytes):
        if x >= 1 << 24:
            x, words = x >> 16, (x & 0xFFFF).to_bytes(2, "little") + words
        x = x << 8 | byte
    first, freq = divmod(int(TABLES.spans[1, -1]), 1 << 16)
    if x >= freq << (32 - PRECISION_BITS):
        x, words = x >> 16, (x & 0xFFFF).to_bytes(2, "little") + words
    x = (x // freq << PRECISION_BITS) + x % freq + first
    return x.to_bytes((x.bit_length() + 7) // 8, "little") + words


def test_a_value_beyond_the_largest_is_refused() -> None:
    scales = np.ones(1, np.uint8)
    assert decode(forged(b"\x80\x80\x80\x80\x08"), scales) == [MOST_MAGNITUDE]
    for code_bytes in (b"\x81\x80\x80\x80\x08", b"\x80\x80\x80\x80\x80\x01", b"\xff" * 5):
        decoder = Decoder(forged(code_bytes), TABLES)
        for _ in range(2):
            with pytest.raises(ValueError, match="coded symbols hold a value beyond 1073741824"):
                decoder.decode(scales)


@pytest.mark.parametrize("n", [300, 40_000])
def test_the_wrong_number_of_symbols_is_found(n: int) -> None:
    symbols, scales = draw(n, seed=12)
    symbols[-1], scales[-1] = 1, 5
    payload = encode(symbols, scales, TABLES)
    decoder = Decoder(payload, TABLES)
    decoder.decode(scales[: n // 2])
    with pytest.raises(ValueError, match="bytes of coded symbols are left over"):
        decoder.finish()
    decoder.decode(scales[n // 2 : -1])
    with pytest.raises(ValueError, match="do not end where their encoder began"):
        decoder.finish()
    decoder.decode(scales[-1:])
    decoder.finish()
