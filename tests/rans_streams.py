"""Tables, and streams of symbols drawn from them."""

from __future__ import annotations

import numpy as np

from inrwsi.coding.rans import Decoder
from inrwsi.coding.tables import TOTAL, FrequencyTables

LIMIT = 15


def integer_tables(n_scales: int = 12, limit: int = LIMIT) -> FrequencyTables:
    """Rows that widen with the scale index, made without floats: the narrow ones are 0 far out."""
    rows = np.zeros((n_scales, 2 * limit + 2), np.uint16)
    for scale in range(n_scales):
        weights = [(1 << 40) // (1 + abs(y) ** 4 * 256 // (1 << 2 * scale)) for y in range(-limit, limit + 1)]
        rows[scale, :-1] = [w * (TOTAL - 1 - scale) // sum(weights) for w in weights]
        rows[scale, limit] += TOTAL - 1 - scale - rows[scale].sum(dtype=int)
        rows[scale, -1] = 1 + scale
    return FrequencyTables.from_frequencies(rows)


TABLES = integer_tables()


def draw(n: int, seed: int, tables: FrequencyTables = TABLES) -> tuple[np.ndarray, np.ndarray]:
    """Symbols as their tables expect them, some escapes among them, and scales in runs, a third of them 0."""
    rng = np.random.default_rng(seed)
    runs = rng.integers(1, tables.n_scales, n // 8 + 1) * (rng.random(n // 8 + 1) < 0.67)
    scales = np.repeat(runs, 8)[:n].astype(np.uint8)
    spans, slots = tables.spans[scales], rng.integers(0, TOTAL, n)[:, None]
    columns = (((spans >> 16) <= slots) & (slots < (spans >> 16) + (spans & 0xFFFF))).argmax(axis=1).astype(np.int32)
    symbols = columns - tables.limit
    escaped = columns == 2 * tables.limit + 1
    symbols[escaped] = rng.integers(-300, 300, escaped.sum())
    symbols[scales == 0] = 0
    return symbols, scales


def decode(payload: bytes, scales: np.ndarray, tables: FrequencyTables = TABLES) -> np.ndarray:
    """All symbols, and the check at the end."""
    decoder = Decoder(payload, tables)
    symbols = decoder.decode(scales)
    decoder.finish()
    return symbols
