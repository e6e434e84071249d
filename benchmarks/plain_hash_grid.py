"""The two-dimensional hash grid in plain Python, written from the formulas: slow, and the measure of all others.

Source: Mueller et al. 2022, section 3, equations 1-4; the half-cell shift and the dense rule are tiny-cuda-nn's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from inrwsi.fields.encodings import HashGridConfig

UINT32 = 0xFFFFFFFF


def plain_layout(config: HashGridConfig) -> list[tuple[float, int, int, int]]:
    """(scale, vertices a side, entries, first row) a level, in exact powers where `encodings` follows float32."""
    levels = []
    first_row = 0
    for level in range(config.levels):
        scale = config.base_resolution * config.per_level_scale**level - 1
        side = int(np.ceil(np.float32(scale))) + 1
        entries = side * side
        while entries % 8:
            entries += 1
        entries = min(entries, 2**config.log2_table)
        levels.append((float(np.float32(scale)), side, entries, first_row))
        first_row += entries
    return levels


def plain_corners(
    x: float, y: float, config: HashGridConfig, real: type[np.floating]
) -> Iterator[tuple[int, int, np.floating]]:
    """(level, row, weight) of every vertex that a position touches; weights in the type `real`."""
    for level, (scale, side, entries, first_row) in enumerate(plain_layout(config)):
        along = []
        for u in (x, y):
            position = real(u * scale + 0.5)
            cell = np.floor(position)
            fraction = real(position - cell)
            along.append(((int(cell), real(1) - fraction), (int(cell) + 1, fraction)))
        for j, weight_y in along[1]:
            for i, weight_x in along[0]:
                dense = side * side <= entries
                row = (i + j * side if dense else i ^ (j * 2654435761 & UINT32)) % entries
                yield level, first_row + row, weight_x * weight_y


def plain_encode(table: np.ndarray, xy: Sequence[Sequence[float]], config: HashGridConfig) -> np.ndarray:
    """(N, levels * features), before rounding to the table's dtype: float64 for a float64 table, else float32."""
    real = np.float64 if table.dtype == np.float64 else np.float32
    out = np.zeros((len(xy), config.levels * config.features), real)
    for n, (x, y) in enumerate(xy):
        for level, row, weight in plain_corners(float(x), float(y), config, real):
            for f in range(config.features):
                out[n, level * config.features + f] += weight * real(table[row, f])
    return out


def plain_gradient(
    grad_out: np.ndarray, xy: Sequence[Sequence[float]], config: HashGridConfig, real: type[np.floating]
) -> np.ndarray:
    """Gradient of the table, (entries of all levels, features) in `real`, added position after position."""
    first_row, entries = plain_layout(config)[-1][3], plain_layout(config)[-1][2]
    grad = np.zeros((first_row + entries, config.features), real)
    for n, (x, y) in enumerate(xy):
        for level, row, weight in plain_corners(float(x), float(y), config, real):
            for f in range(config.features):
                grad[row, f] += weight * real(grad_out[n, level * config.features + f])
    return grad
