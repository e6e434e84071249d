"""The integers between the entropy coder and the networks of model `octaves`: network inputs, passes, dequantisation.

Numbers are in the units that SPEC.md, Annex B, gives: a coefficient or mean is in 1 / 16 of the octave's quantiser
unit, a
pixel in 1 / 64 grey level, a step in 1 / 1024 grey level. Sums are in 64 bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

SEEN_MAX = 255
# Steps that follow activity: of index n, 2^((n - 16) / d) times the octave's, in 1 / 1024, where d is how many indices
# a step doubles in. Index n is that of a site whose activity has reached n of the floors. Activity is 2 v + c, with v
# the variance of brightness about the site in squared grey levels and c = (0.03 * 255)^2, in units of
# 1 / (6561 * 64^2). The factor is 1 where activity is 1500. Where d is 8 a step is as the fourth root of activity, and
# errors are near what SSIM forgives everywhere (Wang et al. 2004, equation 12); where it is 16, as the eighth root.
STEP_FACTOR_UNIT = 1024
TOLD_STEP = 256  # the finest that networks are told of, in 1 / 1024 grey level
STEP_FACTORS = {d: tuple(round(STEP_FACTOR_UNIT * 2 ** ((n - 16) / d)) for n in range(29)) for d in (8, 16)}
ACTIVITY_UNIT = 6561 * 64**2
ACTIVITY_BASE = 1572725238  # 58.5225 squared grey levels
ACTIVITY_FLOORS = tuple(int(1500 * ACTIVITY_UNIT * 2 ** ((n - 16.5) / 2)) for n in range(1, 29))
_JIT = {"nogil": True, "cache": True, "boundscheck": False}


def log2_fixed(value: int) -> int:
    """log2 of a positive integer in units of 2^-16, by squaring: the same everywhere, unlike a float logarithm."""
    whole = value.bit_length() - 1
    mantissa = (value << 31) >> whole  # in [2^31, 2^32)
    result = whole
    for _ in range(16):
        mantissa = (mantissa * mantissa) >> 31
        bit = mantissa >> 32
        mantissa >>= bit
        result = 2 * result + bit
    return result


def step_logs(octave_step: int) -> tuple[int, int]:
    """What networks see of an octave's step (1 / 1024 grey): (log2(grey levels) - 3) / 4 and its square, in 1 / 128.

    Finer ones than `TOLD_STEP`, which they were not trained on, are told as that.
    """
    log = (log2_fixed(max(octave_step, TOLD_STEP)) * 32 + (1 << 15)) // (1 << 16) - 13 * 32
    return log, (log * log + 64) // 128


@njit(**_JIT)
def activity(brightness: np.ndarray, floors: np.ndarray) -> np.ndarray:
    """(h, w) uint8: how many of the `floors` (ascending) the activity about each site has reached.

    Args:
        brightness: (h, w) int16 in 1 / 64 grey level, the first component of the octave below.
        floors: (n,) int64, `ACTIVITY_FLOORS`.

    The variance is over the 5 x 5 sites about it, weighed 1 2 3 2 1 either way; beyond the border they are as at it.
    """
    h, w = brightness.shape
    sums, squares = np.empty((h, w), np.int64), np.empty((h, w), np.int64)
    row = np.empty(w + 4, np.int64)
    for i in range(h):
        row[2 : w + 2] = brightness[i]
        row[:2], row[w + 2 :] = row[2], row[w + 1]
        for x in range(w):
            a, b, c, d, e = row[x], row[x + 1], row[x + 2], row[x + 3], row[x + 4]
            sums[i, x] = a + e + 2 * (b + d) + 3 * c
            squares[i, x] = a * a + e * e + 2 * (b * b + d * d) + 3 * c * c
    out, active = np.empty((h, w), np.uint8), np.empty(w, np.int64)
    last = floors.size
    for i in range(h):
        up2, up, down, down2 = max(i - 2, 0), max(i - 1, 0), min(i + 1, h - 1), min(i + 2, h - 1)
        for x in range(w):
            total = sums[up2, x] + sums[down2, x] + 2 * (sums[up, x] + sums[down, x]) + 3 * sums[i, x]
            square = squares[up2, x] + squares[down2, x] + 2 * (squares[up, x] + squares[down, x]) + 3 * squares[i, x]
            active[x] = 2 * (81 * square - total * total) + ACTIVITY_BASE
        for x in range(w):
            reached = 0
            for more in (16, 8, 4, 2, 1):  # by halves, without a branch; there are fewer than 32 floors
                further = min(reached + more, last)
                reached += (further - reached) * (floors[further - 1] <= active[x])
            out[i, x] = reached
    return out


@njit(**_JIT)
def trunk_inputs(below: np.ndarray, features: np.ndarray, steps: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """(h, 6 + F + L, w) int16: below in grey levels, its high-pass in 1 / 8 step, features, and logarithms.

    Args:
        below: (3, h, w) int16.
        features: (F, h, w) uint8.
        steps: (h, w) int32, of each site, in 1 / 1024 grey level.
        logs: (h, w, L) int16, of the steps: none where they are the same everywhere.
    """
    count, h, w = features.shape
    out = np.empty((h, 6 + count + logs.shape[2], w), np.int16)
    column = np.empty(w + 2, np.int32)  # sums of three pixels down
    for i in range(h):
        row, up, down = out[i], max(i - 1, 0), min(i + 1, h - 1)
        for c in range(3):
            for x in range(w):
                column[x + 1] = np.int32(below[c, up, x]) + np.int32(below[c, i, x]) + np.int32(below[c, down, x])
            column[0], column[w + 1] = column[1], column[w]
            for x in range(w):
                here, step = np.int32(below[c, i, x]), np.float64(steps[i, x])
                # (9 here - total) / 9 is in 1 / 64 grey; times 8 a step. The floored quotient of whole numbers below
                # 2^32, by doubles: one that is no whole number lies further from the next than a double's rounding.
                more = 9 * here - (column[x] + column[x + 1] + column[x + 2])
                high = np.floor((np.float64(more) * 256 + 9 * step) / (18 * step))
                row[c, x] = min(max((here + 32) >> 6, -SEEN_MAX), SEEN_MAX)
                row[3 + c, x] = np.int16(min(max(high, -SEEN_MAX), SEEN_MAX))
        for c in range(count):
            for x in range(w):
                row[6 + c, x] = features[c, i, x]
        for c in range(logs.shape[2]):
            for x in range(w):
                row[6 + count + c, x] = logs[i, x, c]
    return out


@njit(**_JIT)
def place(
    values: np.ndarray, symbols: np.ndarray, means: np.ndarray, first_band: int, white: bool, spacing: int
) -> None:
    """Put a pass's coefficients, `spacing` times its symbols (2, h/2, w/2, bands) and its means, in `values` (h, w, 9).

    All int32.
    """
    _, h, w, bands = means.shape
    for half in range(2):
        dx = (1 - half) if white else half
        for i in range(h):
            for x in range(w):
                for b in range(bands):
                    found = spacing * symbols[half, i, x, b] + means[half, i, x, b]
                    values[2 * i + half, 2 * x + dx, first_band + b] = found


@njit(**_JIT)
def seen_inputs(values: np.ndarray, first_band: int, bands: int, pad: int) -> np.ndarray:
    """(h + 2 pad, w + 2 pad, bands) float32 integers in quarters of a unit, zero around."""
    h, w, _ = values.shape
    out = np.zeros((h + 2 * pad, w + 2 * pad, bands), np.float32)
    for i in range(h):
        for x in range(w):
            for b in range(bands):
                quarter = (values[i, x, first_band + b] + 2) >> 2
                out[i + pad, x + pad, b] = min(max(quarter, -SEEN_MAX), SEEN_MAX)
    return out


@njit(**_JIT)
def near_inputs(seen: np.ndarray, pad: int, taps: np.ndarray, white: bool) -> np.ndarray:
    """What a pass sees about each of its sites, for a convolution of 1 x 1: (2, h/2, w/2, inputs), typed as `seen`.

    Args:
        seen: (h + 2 pad, w + 2 pad, bands), of `seen_inputs`.
        taps: (n, 4) int64: rows down and columns right of the place `pad` up and left of a site, first band, and one
            past the last.
    """
    rows, columns, bands = seen.shape
    h, w = (rows - 2 * pad) // 2, (columns - 2 * pad) // 2
    away = np.empty((taps[:, 3] - taps[:, 2]).sum(), np.int64)  # of each input, from the place up and left of a site
    n = 0
    for t in range(taps.shape[0]):
        for b in range(taps[t, 2], taps[t, 3]):
            away[n] = (taps[t, 0] * columns + taps[t, 1]) * bands + b
            n += 1
    flat = seen.reshape(-1)
    out = np.empty((2, h, w, n), seen.dtype)
    for half in range(2):
        dx = (1 - half) if white else half
        for i in range(h):
            for x in range(w):
                begin = ((2 * i + half) * columns + 2 * x + dx) * bands
                for k in range(n):
                    out[half, i, x, k] = flat[begin + away[k]]
    return out


@njit(**_JIT)
def dequantise(values: np.ndarray, inverse_factor: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Details (3, 3, h, w) int32 in 1 / 64 grey level.

    Args:
        values: (9, h, w) int32 coefficients.
        inverse_factor: (9,), a band's unit in 1 / 4096 of the step.
        steps: (h, w) int32, in 1 / 1024 grey level.
    """
    bands, h, w = values.shape
    out = np.empty((3, 3, h, w), np.int32)
    for band in range(bands):
        inverse = np.int64(inverse_factor[band])
        for i in range(h):
            own, step, to = values[band, i], steps[i], out[band // 3, band % 3, i]
            for x in range(w):
                unit = max((inverse * step[x]) >> 12, 1)
                detail = (np.int64(own[x]) * unit + 128) >> 8
                to[x] = min(max(detail, -(1 << 20)), 1 << 20)
    return out


@njit(**_JIT)
def residual_pixels(out: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(3, 2 h, 2 w) int32 in 1 / 64 grey level from the network's (h, w, 12) float32 integers in 1 / 256 step."""
    h, w, _ = out.shape
    pixels = np.empty((3, 2 * h, 2 * w), np.int32)
    for c in range(3):
        for i in range(h):
            for x in range(w):
                for k in range(4):
                    value = np.int64(out[i, x, 4 * c + k]) * steps[i, x]
                    pixels[c, 2 * i + (k >> 1), 2 * x + (k & 1)] = (value + (1 << 11)) >> 12
    return pixels


@njit(**_JIT)
def shuffle_features(out: np.ndarray) -> np.ndarray:
    """(F, 2 h, 2 w) uint8 from the network's (h, w, 4 F) float32 integers."""
    h, w, channels = out.shape
    features = np.empty((channels // 4, 2 * h, 2 * w), np.uint8)
    for i in range(h):
        for x in range(w):
            for c in range(channels // 4):
                for k in range(4):
                    features[c, 2 * i + (k >> 1), 2 * x + (k & 1)] = np.uint8(out[i, x, 4 * c + k])
    return features
