"""Position-hashed noise for the generated slide: the same number for the same place, on every machine.

Everything is 32-bit integer hashing, and floats that are only added, subtracted, multiplied, divided, floored or
square-rooted: IEEE 754 rounds each of those in one way, and numba neither reorders nor fuses them unless asked
(`fastmath`, which must stay off). No exponential or trigonometric function is called, since those differ between CPUs.
"""

from __future__ import annotations

import math

import numba
import numpy as np

_U24 = 1.0 / (1 << 24)


@numba.njit(cache=True, nogil=True)
def hash2(i: int, j: int, salt: int) -> int:
    """A well-mixed uint32 of two integers and a salt (multiply and xor-shift rounds, all modulo 2**32)."""
    x = np.uint32(np.uint32(i) * np.uint32(0x9E3779B1)) ^ np.uint32(np.uint32(j) * np.uint32(0x85EBCA77))
    x = np.uint32(x + np.uint32(salt) * np.uint32(0xC2B2AE3D))
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return int(np.int64(x ^ (x >> np.uint32(16))))  # signed, since numba makes a float of uint64 beside int64


@numba.njit(cache=True, nogil=True)
def unit2(i: int, j: int, salt: int) -> float:
    """A uniform number in [0, 1) of two integers and a salt."""
    return (hash2(i, j, salt) >> 8) * _U24


@numba.njit(cache=True, nogil=True)
def smoothstep(low: float, high: float, x: float) -> float:
    """0 below `low`, 1 above `high`, 3t^2 - 2t^3 between."""
    t = (x - low) / (high - low)
    t = min(max(t, 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@numba.njit(cache=True, nogil=True)
def value_noise(x: float, y: float, salt: int) -> float:
    """Smooth noise in [0, 1), mean 0.5: hashed values on the integer lattice, blended by smoothsteps."""
    i, j = math.floor(x), math.floor(y)
    a, b = x - i, y - j
    a = a * a * (3.0 - 2.0 * a)
    b = b * b * (3.0 - 2.0 * b)
    v00 = unit2(i, j, salt)
    v10 = unit2(i + 1, j, salt)
    v01 = unit2(i, j + 1, salt)
    v11 = unit2(i + 1, j + 1, salt)
    top = v00 + (v10 - v00) * a
    return top + (v01 + (v11 - v01) * a - top) * b


@numba.njit(cache=True, nogil=True)
def cellular(x: float, y: float, salt: int) -> tuple[float, float, int]:
    """Distances to the nearest and second nearest point of a jittered lattice of pitch 1, and the nearest's hash."""
    i, j = math.floor(x), math.floor(y)
    near, second, owner = 1e9, 1e9, 0
    for dj in range(-1, 2):
        for di in range(-1, 2):
            h = hash2(i + di, j + dj, salt)
            px = (i + di) + 0.1 + 0.8 * (h & 0xFFFF) / 65536.0
            py = (j + dj) + 0.1 + 0.8 * (h >> 16) / 65536.0
            d = (px - x) * (px - x) + (py - y) * (py - y)
            if d < near:
                second = near
                near = d
                owner = h
            elif d < second:
                second = d
    return math.sqrt(near), math.sqrt(second), owner
