"""`wavelet.forward97` of one picture on the CPU: the same floats, in a quarter of the time.

Every sum and product is rounded as torch rounds them, in their order (`tests/test_wavelet.py`).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inrwsi.fields import wavelet

_A, _B, _C, _D = (np.float32(v) for v in wavelet.LIFTING)
_LOW_GAIN, _HIGH_GAIN = np.float32(wavelet.LOW_GAIN), np.float32(wavelet.HIGH_GAIN)
_HALF = np.float32(0.5)
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
