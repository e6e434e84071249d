"""`wavelet.forward97` of one picture on the CPU: the same floats, in a quarter of the time.

Every sum and product is rounded as torch rounds them, in their order (`tests/test_wavelet.py`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numba import njit

from inrwsi.fields import wavelet

_A, _B, _C, _D = (np.float32(v) for v in wavelet.LIFTING)
_LOW_GAIN, _HIGH_GAIN = np.float32(wavelet.LOW_GAIN), np.float32(wavelet.HIGH_GAIN)
_HALF = np.float32(0.5)
_TAIL = 32  # samples at the end of a line: what its last four are has no say in what lies further off
# What a squared change counts against the squared error of the octave below. Without it a picture of 263 x 227 takes
# 8 % more bytes, for changes that nobody sees; with 0.1 a fifth of the gain at its edge is lost.
_SHY = 0.007
_JIT = {"nogil": True, "cache": True, "boundscheck": False}


def forward97(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One level of the transform.

    Args:
        x: (C, H, W) float32, H and W even.

    Returns:
        The octave below, (C, H/2, W/2), and the details (3 C, H/2, W/2), as `wavelet.forward97` has them.
    """
    channels, h, w = x.shape[0], x.shape[1] // 2, x.shape[2] // 2
    below, details = np.empty((channels, h, w), np.float32), np.empty((3 * channels, h, w), np.float32)
    for c in range(channels):
        low, high = _across(x[c])
        below[c], details[3 * c + 1] = _down(low)
        below[c] *= _HALF
        details[3 * c], details[3 * c + 2] = _down(high)
    return below, details


def below97(x: np.ndarray) -> np.ndarray:
    """The octave below alone: (C, H, W) float32, H and W even, to (C, H/2, W/2)."""
    return np.stack([_down(_across(plane)[0])[0] * _HALF for plane in x])


def fill(x: np.ndarray, below: np.ndarray, count: int) -> None:
    """Change the last `count` rows, as little as may be, such that the octave below is nearly `below`.

    Least squares with a ridge (Hoerl and Kennard 1970), line by line; along the rows what is added is smooth.

    Args:
        x: (C, H, W) float32, H and W even; may be a view.
        below: (C, H/2, W/2) float32.
        count: of rows; less than H.
    """
    first = max(0, x.shape[1] - _TAIL)
    missing = below[:, first // 2 :] - below97(np.ascontiguousarray(x[:, first:]))
    rows = _gains(x.shape[1] - first, count) @ missing
    x[:, -count:] += _along(rows)


@lru_cache(maxsize=64)
def _gains(lines: int, count: int) -> np.ndarray:
    """(count, lines / 2) float32: what the last `count` samples of a line change with its low half, as a mean."""
    low = _across(np.eye(lines, dtype=np.float32))[0].T.astype(np.float64) / np.sqrt(2)
    last = low[:, lines - count :]
    return np.linalg.solve(last.T @ last + _SHY * np.eye(count), last.T).astype(np.float32)


def _along(low: np.ndarray) -> np.ndarray:
    """Rows (..., W/2), as means, to (..., W) whose low half they are and whose high half is nothing."""
    rows = torch.from_numpy(np.ascontiguousarray(low))
    return wavelet.join(rows * math.sqrt(2), torch.zeros_like(rows)).numpy()


@njit(**_JIT)
def _across(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (H, W) to their low and high halves, (H, W/2) each."""
    h, n = x.shape[0], x.shape[1] // 2
    low, high = np.empty((h, n), np.float32), np.empty((h, n), np.float32)
    for r in range(h):
        even, odd = low[r], high[r]
        for i in range(n):
            even[i], odd[i] = x[r, 2 * i], x[r, 2 * i + 1]
        _to_next(odd, even, _A)
        _to_last(even, odd, _B)
        _to_next(odd, even, _C)
        _to_last(even, odd, _D)
        for i in range(n):
            even[i], odd[i] = even[i] * _LOW_GAIN, odd[i] * _HIGH_GAIN
    return low, high


@njit(**_JIT)
def _to_next(line: np.ndarray, other: np.ndarray, weight: float) -> None:
    """Add to each sample its neighbours of the other kind: those at its own place and the next, mirrored at the end."""
    n = len(line)
    for i in range(n - 1):
        line[i] += weight * (other[i] + other[i + 1])
    line[n - 1] += weight * (other[n - 1] + other[n - 1])


@njit(**_JIT)
def _to_last(line: np.ndarray, other: np.ndarray, weight: float) -> None:
    line[0] += weight * (other[0] + other[0])
    for i in range(1, len(line)):
        line[i] += weight * (other[i] + other[i - 1])


@njit(**_JIT)
def _down(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (H, n) to their low and high halves, (H/2, n) each; whole rows at a time."""
    h, n = x.shape[0] // 2, x.shape[1]
    low, high = np.empty((h, n), np.float32), np.empty((h, n), np.float32)
    for r in range(h):
        low[r], high[r] = x[2 * r], x[2 * r + 1]
    for to_odd, to_even in ((_A, _B), (_C, _D)):
        for r in range(h):
            here, there = low[r], low[min(r + 1, h - 1)]
            for i in range(n):
                high[r, i] += to_odd * (here[i] + there[i])
        for r in range(h):
            here, there = high[r], high[max(r - 1, 0)]
            for i in range(n):
                low[r, i] += to_even * (here[i] + there[i])
    for r in range(h):
        for i in range(n):
            low[r, i], high[r, i] = low[r, i] * _LOW_GAIN, high[r, i] * _HIGH_GAIN
    return low, high
