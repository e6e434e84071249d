"""What stands between two convolutions of model `octaves` on a CPU: rescaling, rounding and borders in one pass.

Numbers are bfloat16, as their bits in uint16: sums of a convolution, rounded to eight significant bits, and
what networks see of coefficients, which it holds exactly. Activations, whole numbers from 0 to 255, are in uint8, but
beside coefficients. Arrays are channels last. Each function does what `octaves_integer` spells with torch, and gives
the same integers; it touches memory once, where those take five turns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from inrwsi.coding.sites import SEEN_MAX

_JIT = {"nogil": True, "cache": True, "boundscheck": False}
_MOST = np.float32(255)
_AT_ONCE = 64  # sites
PAD = 2  # sites about a chunk: what the widest pass sees beyond its border


@njit(inline="always", **_JIT)
def _wide(bits: Any) -> Any:
    """The number that bfloat16 bits stand for."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


@njit(inline="always", **_JIT)
def _narrow(value: Any) -> Any:
    """The bits of a number that bfloat16 holds exactly."""
    return np.uint16(np.uint32(np.float32(value).view(np.uint32) >> np.uint32(16)))


@njit(inline="always", **_JIT)
def _activation(total: Any, bias: Any, scale: Any) -> Any:
    return min(max(np.rint((total + bias) * scale), np.float32(0)), _MOST)


@njit(**_JIT)
def _tiled(values: np.ndarray, count: int) -> np.ndarray:
    """(C,) float32, `count` times one after the other: what is done site by site takes twice the time of long rows."""
    out = np.empty(count * values.size, np.float32)
    for i in range(count):
        for k in range(values.size):
            out[i * values.size + k] = values[k]
    return out


@njit(**_JIT)
def _replicate(out: np.ndarray) -> None:
    """Fill the outermost rows and columns of (h + 2, w + 2, C) with their neighbours'."""
    h, w, channels = out.shape
    for i in range(1, h - 1):
        for k in range(channels):
            out[i, 0, k] = out[i, 1, k]
            out[i, w - 1, k] = out[i, w - 2, k]
    out[0] = out[1]
    out[h - 1] = out[h - 2]


@njit(**_JIT)
def padded(rows: np.ndarray) -> np.ndarray:
    """Whole numbers (h, C, w) int16 of at most eight bits to (h + 2, w + 2, C) uint16, replicated about."""
    h, channels, w = rows.shape
    out = np.empty((h + 2, w + 2, channels), np.uint16)
    row = np.empty((channels, w), np.uint16)
    for i in range(h):
        for k in range(channels):
            for x in range(w):
                row[k, x] = _narrow(np.float32(rows[i, k, x]))
        for x in range(w):
            for k in range(channels):
                out[i + 1, x + 1, k] = row[k, x]
    _replicate(out)
    return out


@njit(**_JIT)
def place(
    values: np.ndarray,
    seen: np.ndarray,
    symbols: np.ndarray,
    means: np.ndarray,
    first_band: int,
    white: bool,
    spacing: int,
) -> None:
    """Put a pass's coefficients where they belong, as `sites.place` does, and what networks see of them.

    Args:
        values: (9, h, w) int32, in 1 / 16 unit.
        seen: (h + 2 PAD, w + 2 PAD, 9) uint16, zero around: in quarters of a unit, within SEEN_MAX.
        symbols, means: (2, h / 2, w / 2, bands) int32.
        spacing: what a symbol of 1 stands for, in 1 / 16 unit.
    """
    _, h, w, bands = means.shape
    n = w * bands
    found, quarters = np.empty(n, np.int32), np.empty(n, np.uint16)  # a row in memory order is done in vectors
    flat_symbols, flat_means = symbols.reshape(-1), means.reshape(-1)
    for half in range(2):
        dx = (1 - half) if white else half
        for i in range(h):
            begin = (half * h + i) * n
            own, mean = flat_symbols[begin : begin + n], flat_means[begin : begin + n]
            for k in range(n):
                found[k] = np.int32(spacing) * own[k] + mean[k]
                quarters[k] = _narrow(np.float32(min(max((found[k] + 2) >> 2, -SEEN_MAX), SEEN_MAX)))
            value_rows, seen_row = values[first_band:, 2 * i + half], seen[2 * i + half + PAD]
            if bands == 3:  # spelled out they take half the time
                for x in range(w):
                    for b in range(3):
                        value_rows[b, 2 * x + dx] = found[3 * x + b]
                        seen_row[2 * x + dx + PAD, first_band + b] = quarters[3 * x + b]
            else:
                for x in range(w):
                    for b in range(bands):
                        value_rows[b, 2 * x + dx] = found[bands * x + b]
                        seen_row[2 * x + dx + PAD, first_band + b] = quarters[bands * x + b]


@njit(**_JIT)
def relu(total: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Activations (n, C) uint8 of sums (n, C) uint16; bias and scale (C,) float32."""
    out = np.empty(total.shape, np.uint8)
    sums, found = total.reshape(-1), out.reshape(-1)
    biases, scales = _tiled(bias, _AT_ONCE), _tiled(scale, _AT_ONCE)
    for begin in range(0, sums.size, biases.size):
        own, to = sums[begin : begin + biases.size], found[begin : begin + biases.size]
        for k in range(own.size):
            to[k] = np.uint8(_activation(_wide(own[k]), biases[k], scales[k]))
    return out


@njit(**_JIT)
def relu_of_two(total: np.ndarray, other: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The same of two sums that are added."""
    n, channels = total.shape
    out = np.empty((n, channels), np.uint8)
    for i in range(n):
        for k in range(channels):
            out[i, k] = np.uint8(_activation(_wide(total[i, k]) + _wide(other[i, k]), bias[k], scale[k]))
    return out


@njit(**_JIT)
def relu_padded(total: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Activations (h + 2, w + 2, C) uint8, replicated about, of sums (h, w, C) uint16."""
    h, w, channels = total.shape
    out = np.empty((h + 2, w + 2, channels), np.uint8)
    biases, scales = _tiled(bias, w), _tiled(scale, w)
    for i in range(h):
        own, to = total[i].reshape(-1), out[i + 1, 1 : w + 1].reshape(-1)
        for k in range(own.size):
            to[k] = np.uint8(_activation(_wide(own[k]), biases[k], scales[k]))
    _replicate(out)
    return out


@njit(**_JIT)
def relu_at_sites(total: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Activations of sums (h, w, C) uint16 by site: (2, 2, h / 2, w / 2, C) uint8, the black ones first."""
    h, w, channels = total.shape
    out = np.empty((2, 2, h // 2, w // 2, channels), np.uint8)
    for i in range(h):
        half = i & 1
        for x in range(w):
            white = (x & 1) ^ half
            for k in range(channels):
                value = _activation(_wide(total[i, x, k]), bias[k], scale[k])
                out[white, half, i >> 1, x >> 1, k] = np.uint8(value)
    return out


@njit(**_JIT)
def synthesis_inputs(squeezed: np.ndarray, bias: np.ndarray, scale: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(h + 2, w + 2, C + 9) uint16, replicated about: activations of the squeezed trunk, and the coefficients.

    Args:
        squeezed: (2, 2, h / 2, w / 2, C) uint16 sums, by site.
        bias, scale: (C,) float32.
        seen: as `place` fills it.
    """
    _, _, half_h, half_w, channels = squeezed.shape
    h, w, bands = 2 * half_h, 2 * half_w, seen.shape[2]
    out = np.empty((h + 2, w + 2, channels + bands), np.uint16)
    biases, scales = _tiled(bias, half_w), _tiled(scale, half_w)
    row = np.empty((2, half_w, channels), np.uint16)
    for i in range(h):
        half = i & 1
        for white in range(2):
            own, to = squeezed[white, half, i >> 1].reshape(-1), row[white].reshape(-1)
            for k in range(own.size):
                to[k] = _narrow(_activation(_wide(own[k]), biases[k], scales[k]))
        for x in range(w):
            white = (x & 1) ^ half
            for k in range(channels):
                out[i + 1, x + 1, k] = row[white, x >> 1, k]
            for b in range(bands):
                out[i + 1, x + 1, channels + b] = seen[i + PAD, x + PAD, b]
    _replicate(out)
    return out


@njit(**_JIT)
def means_and_scales(
    total: np.ndarray, bias: np.ndarray, scale: np.ndarray, mean_max: int, offset: int, scales: int
) -> tuple[np.ndarray, np.ndarray]:
    """A pass's means (n, C / 2) int32 and scale indices (n, C / 2) uint8, of sums (n, C) uint16.

    Args:
        mean_max: means are cut to it, either side of 0.
        offset, scales: scale indices, with `offset` added, are cut to 0 to `scales` - 1, which is less.
    """
    n, channels = total.shape
    bands = channels // 2
    means, indices = np.empty((n, bands), np.int32), np.empty((n, bands), np.uint8)
    most = np.float32(mean_max)
    least, last = np.float32(-offset), np.float32(scales - 1 - offset)  # of an index, before the offset is added
    for i in range(n):
        for k in range(bands):
            mean = np.rint((_wide(total[i, k]) + bias[k]) * scale[k])
            means[i, k] = np.int32(min(max(mean, -most), most))
            index = np.rint((_wide(total[i, bands + k]) + bias[bands + k]) * scale[bands + k])
            indices[i, k] = np.uint8(np.int32(min(max(index, least), last)) + offset)
    return means, indices


@njit(**_JIT)
def residual_pixels(total: np.ndarray, bias: np.ndarray, scale: np.ndarray, most: int, steps: np.ndarray) -> np.ndarray:
    """(3, 2 h, 2 w) int32 in 1 / 64 grey level of sums (h, w, 12) uint16; see `sites.residual_pixels`."""
    h, w, channels = total.shape
    pixels = np.empty((3, 2 * h, 2 * w), np.int32)
    row, limit = np.empty((w, channels), np.int32), np.float32(most)
    biases, scales, found = _tiled(bias, w), _tiled(scale, w), row.reshape(-1)
    for i in range(h):
        sums = total[i].reshape(-1)
        for k in range(sums.size):
            value = np.rint((_wide(sums[k]) + biases[k]) * scales[k])
            found[k] = np.int32(min(max(value, -limit), limit))
        for n in range(6):  # component by component, an upper row and a lower one
            own = pixels[n >> 1, 2 * i + (n & 1)]
            for x in range(w):
                step = np.int64(steps[i, x])
                own[2 * x] = (row[x, 2 * n] * step + (1 << 11)) >> 12
                own[2 * x + 1] = (row[x, 2 * n + 1] * step + (1 << 11)) >> 12
    return pixels


@njit(**_JIT)
def shuffled_features(total: np.ndarray, bias: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(F, 2 h, 2 w) uint8 of sums (h, w, 4 F) uint16."""
    h, w, channels = total.shape
    features = np.empty((channels // 4, 2 * h, 2 * w), np.uint8)
    row = np.empty((w, channels), np.uint8)
    for i in range(h):
        for x in range(w):
            for k in range(channels):
                row[x, k] = np.uint8(_activation(_wide(total[i, x, k]), bias[k], scale[k]))
        for c in range(channels // 4):
            for k in range(4):
                out = features[c, 2 * i + (k >> 1)]
                for x in range(w):
                    out[2 * x + (k & 1)] = row[x, 4 * c + k]
    return features
