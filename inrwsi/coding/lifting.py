"""What turns decoded numbers into pixels, in integers: the inverse 9/7 wavelet and the inverse colour transform.

Source of the lifting steps: ISO/IEC 15444-1, Annex F. Coefficients are in units of 2^-13, pixels in units of 1 / 64
grey
level; sums are in 64 bits, so nothing overflows whatever a file says, and every machine rounds alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

PIXEL_UNIT = 64  # one grey level
_BITS = 13
_HALF = 1 << (_BITS - 1)
_A, _B, _C, _D = -12994, -434, 7233, 3633  # the lifting steps times 2^13
_LOW = 12397  # 2 / LOW_GAIN^2 times 2^13: the octave below, as a low-pass band before lifting
_DIAGONAL = 10827  # 1 / HIGH_GAIN^2 times 2^13
PIXEL_MAX = 32000  # of a component, 500 grey levels: an int16 holds it

_JIT = {"nogil": True, "cache": True, "boundscheck": False}


@njit(**_JIT)
def _undo(even: np.ndarray, odd: np.ndarray) -> None:
    """Undo the four lifting steps in place along the first axis of two (n, m) int32 arrays."""
    n, m = even.shape
    for coefficient, step in ((_D, 0), (_C, 1), (_B, 0), (_A, 1)):
        for i in range(n):
            if step == 0:
                j = max(i - 1, 0)
                for x in range(m):
                    even[i, x] -= np.int32((coefficient * np.int64(odd[i, x] + odd[j, x]) + _HALF) >> _BITS)
            else:
                j = min(i + 1, n - 1)
                for x in range(m):
                    odd[i, x] -= np.int32((coefficient * np.int64(even[i, x] + even[j, x]) + _HALF) >> _BITS)


@njit(inline="always", **_JIT)
def _lift(coefficient: int, a: Any, b: Any) -> Any:
    return np.int32((coefficient * np.int64(a + b) + _HALF) >> _BITS)


@njit(**_JIT)
def _undo_row(even: np.ndarray, odd: np.ndarray) -> None:
    """The same along a row of two (m,) int32 arrays; the ends apart, or nothing of it would be done in vectors."""
    last = even.size - 1
    for coefficient, step in ((_D, _C), (_B, _A)):
        even[0] -= _lift(coefficient, odd[0], odd[0])
        for x in range(1, last + 1):
            even[x] -= _lift(coefficient, odd[x], odd[x - 1])
        for x in range(last):
            odd[x] -= _lift(step, even[x], even[x + 1])
        odd[last] -= _lift(step, even[last], even[last])


@njit(**_JIT)
def inverse97(below: np.ndarray, details: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Pixels of an octave.

    Args:
        below: (3, h, w) int16, the octave below, in 1 / 64 grey level.
        details: (3, 3, h, w) int32: components; horizontal, vertical and diagonal band; orthonormal, 1 / 64 grey level.
        residual: (3, 2 h, 2 w) int32, added.

    Returns:
        (3, 2 h, 2 w) int16, within PIXEL_MAX.
    """
    _, h, w = below.shape
    out = np.empty((3, 2 * h, 2 * w), np.int16)
    low_even, low_odd = np.empty((h, w), np.int32), np.empty((h, w), np.int32)
    high_even, high_odd = np.empty((h, w), np.int32), np.empty((h, w), np.int32)
    for c in range(3):
        for i in range(h):
            for x in range(w):
                low_even[i, x] = (_LOW * np.int64(below[c, i, x]) + _HALF) >> _BITS
                low_odd[i, x] = details[c, 1, i, x]
                high_even[i, x] = details[c, 0, i, x]
                high_odd[i, x] = (_DIAGONAL * np.int64(details[c, 2, i, x]) + _HALF) >> _BITS
        _undo(low_even, low_odd)
        _undo(high_even, high_odd)
        for i in range(h):
            for parity in range(2):
                even = low_even[i] if parity == 0 else low_odd[i]
                odd = high_even[i] if parity == 0 else high_odd[i]
                _undo_row(even, odd)
                own, more = out[c, 2 * i + parity], residual[c, 2 * i + parity]
                for x in range(w):
                    own[2 * x] = min(max(even[x] + more[2 * x], -PIXEL_MAX), PIXEL_MAX)
                    own[2 * x + 1] = min(max(odd[x] + more[2 * x + 1], -PIXEL_MAX), PIXEL_MAX)
    return out


@njit(**_JIT)
def to_rgb(pixels: np.ndarray, matrix: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Components to RGB.

    Args:
        pixels: (3, h, w) int16 in 1 / 64 grey level.
        matrix: (3, 3) int64 in 1 / 2^14, rows are R, G and B: the inverse of the slide's colour transform.
        mean: (3,) int64 of RGB, in 1 / 64 grey level.

    Returns:
        (h, w, 3) uint8.
    """
    _, h, w = pixels.shape
    out = np.empty((h, w, 3), np.uint8)
    for i in range(h):
        for x in range(w):
            for c in range(3):
                total = mean[c] << 14
                for k in range(3):
                    total += matrix[c, k] * np.int64(pixels[k, i, x])
                out[i, x, c] = min(max((total + (1 << 19)) >> 20, 0), 255)
    return out
