"""What turns decoded numbers into pixels, in integers: the inverse 9/7 wavelet and the inverse colour transform.

Source of the lifting steps: ISO/IEC 15444-1, Annex F. Coefficients are in units of 2^-13, pixels in units of 1 / 64
grey
level; sums are in 64 bits, so nothing overflows whatever a file says, and every machine rounds alike.
"""

from __future__ import annotations

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


@njit(**_JIT)
def _undo_rows(even: np.ndarray, odd: np.ndarray, out: np.ndarray) -> None:
    """The same along the second axis, into `out` (n, 2 m)."""
    n, m = even.shape
    for i in range(n):
        e, o = even[i], odd[i]
        for x in range(m):
            e[x] -= np.int32((_D * np.int64(o[x] + o[max(x - 1, 0)]) + _HALF) >> _BITS)
        for x in range(m):
            o[x] -= np.int32((_C * np.int64(e[x] + e[min(x + 1, m - 1)]) + _HALF) >> _BITS)
        for x in range(m):
            e[x] -= np.int32((_B * np.int64(o[x] + o[max(x - 1, 0)]) + _HALF) >> _BITS)
        for x in range(m):
            o[x] -= np.int32((_A * np.int64(e[x] + e[min(x + 1, m - 1)]) + _HALF) >> _BITS)
        for x in range(m):
            out[i, 2 * x] = e[x]
            out[i, 2 * x + 1] = o[x]


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
    row = np.empty((h, 2 * w), np.int32)
    for c in range(3):
        for i in range(h):
            for x in range(w):
                low_even[i, x] = (_LOW * np.int64(below[c, i, x]) + _HALF) >> _BITS
                low_odd[i, x] = details[c, 1, i, x]
                high_even[i, x] = details[c, 0, i, x]
                high_odd[i, x] = (_DIAGONAL * np.int64(details[c, 2, i, x]) + _HALF) >> _BITS
        _undo(low_even, low_odd)
        _undo(high_even, high_odd)
        for parity in range(2):
            if parity == 0:
                _undo_rows(low_even, high_even, row)
            else:
                _undo_rows(low_odd, high_odd, row)
            for i in range(h):
                for x in range(2 * w):
                    value = row[i, x] + residual[c, 2 * i + parity, x]
                    out[c, 2 * i + parity, x] = min(max(value, -PIXEL_MAX), PIXEL_MAX)
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
