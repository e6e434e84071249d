"""Did the stain keep its colour? Stain vectors, optical density and perceived colour of a decoded picture.

Pixels are taken as sRGB (IEC 61966-2-1); an ICC profile is not applied, to neither picture. Optical density is
-log10((v + 1) / 256) of an 8-bit value v.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np

STAINED_OD = 0.15  # Macenko et al. 2009, section 3.1: beta
CELL_UM = 8.0

_ANGLE_PERCENTILES = (1.0, 99.0)  # Macenko et al. 2009, section 3.1: alpha
_FEWEST_STAINED_PX, _MOST_STAINED_PX = 1000, 200_000
_FLAT_OD = 1e-3  # standard deviation across the plane of the stains under which there is one colour only
_OD = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)

# IEC 61966-2-1 as linear light; then XYZ of the primaries over the white point D65, so that white is (1, 1, 1).
_VALUES = np.arange(256) / 255
_LINEAR = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4)
_RGB_TO_XYZ = np.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
)
_RGB_TO_WHITE = _RGB_TO_XYZ / _RGB_TO_XYZ.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Stain:
    """Optical density of one picture.

    Attributes:
        stained: (h, w) bool, the pixels whose mean density is over 0.15.
        vectors: (2, 3) unit vectors of density in R, G and B by Macenko et al. 2009, the one with more red first
            (haematoxylin in H&E), from up to 200,000 stained pixels spread over it; None where there are no two stains.
        cells_od: (rows, columns, 3) float32 mean density of cells of about 8 um.
    """

    stained: np.ndarray
    vectors: np.ndarray | None
    cells_od: np.ndarray


def stain_of(rgb: np.ndarray, mpp_um: float, stained: np.ndarray | None = None) -> Stain:
    """Stain of (h, w, 3) uint8. `stained`, of the original, makes both pictures answer for the same pixels."""
    od = _OD[rgb]
    if stained is None:
        stained = od.sum(axis=2) > 3 * STAINED_OD
    chosen = np.flatnonzero(stained)
    chosen = chosen[:: math.ceil(len(chosen) / _MOST_STAINED_PX) | 1]  # an odd step takes even and odd columns alike
    return Stain(stained, _stain_vectors(od.reshape(-1, 3)[chosen]), _cell_means(od, _cell_px(mpp_um)))


def vector_angle_deg(a: Stain, b: Stain) -> float | None:
    """The larger of the angles between the two pairs of stain vectors, in degrees; None if a picture has none."""
    if a.vectors is None or b.vectors is None:
        return None
    cross = np.linalg.norm(np.cross(a.vectors, b.vectors), axis=1)
    return float(np.degrees(np.arctan2(cross, (a.vectors * b.vectors).sum(axis=1))).max())


def od_drifts(original: Stain, decoded: Stain, mpp_um: float) -> tuple[float, int]:
    """Sum of the absolute differences of mean density over cells at least half stained, and how many values it sums.

    A mean over a cell leaves noise and texture out: what is left is what densitometry of a nucleus would be wrong by.
    """
    share = _cell_means(original.stained[..., None].astype(np.float32), _cell_px(mpp_um))[..., 0]
    drift = np.abs(decoded.cells_od - original.cells_od)[share >= 0.5]
    return float(drift.sum(dtype=np.float64)), drift.size


def ciede2000_sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum over pixels of the colour difference of two (h, w, 3) uint8 (Sharma, Wu, Dalal 2005, equations 2 to 22).

    kL = kC = kH = 1, CIELAB against D65. A difference of about 1 is just seen.
    """
    pixels = np.ascontiguousarray(a).reshape(-1, 3), np.ascontiguousarray(b).reshape(-1, 3)
    return float(_difference_sum(*pixels, _LINEAR, _RGB_TO_WHITE))


def _cell_px(mpp_um: float) -> int:
    return max(1, round(CELL_UM / mpp_um))


def _cell_means(values: np.ndarray, cell_px: int) -> np.ndarray:
    """Means over whole cells, or over everything if not even one fits: (rows, columns, C)."""
    h, w = (min(side, cell_px) for side in values.shape[:2])
    rows, columns = values.shape[0] // h, values.shape[1] // w
    whole = values[: rows * h, : columns * w].reshape(rows, h, columns, w, values.shape[2])
    return whole.mean(axis=(1, 3))


def _stain_vectors(od: np.ndarray) -> np.ndarray | None:
    """Macenko et al. 2009, section 3.1, of (n, 3) densities: the extreme directions in the plane of most variance."""
    if len(od) < _FEWEST_STAINED_PX:
        return None
    variances, directions = np.linalg.eigh(np.cov(od, rowvar=False))
    if variances[1] < _FLAT_OD**2:
        return None
    plane = directions[:, [2, 1]]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)  # so that densities project to positive values
    flat = od @ plane.astype(np.float32)
    angles = np.percentile(np.arctan2(flat[:, 1], flat[:, 0]), _ANGLE_PERCENTILES)
    vectors = np.stack((np.cos(angles), np.sin(angles)), axis=1) @ plane.T
    return vectors[np.argsort(-vectors[:, 0], kind="stable")]


@numba.njit(cache=True, nogil=True)
def _difference_sum(a: np.ndarray, b: np.ndarray, linear: np.ndarray, to_white: np.ndarray) -> float:
    total = 0.0
    for i in range(a.shape[0]):
        if a[i, 0] != b[i, 0] or a[i, 1] != b[i, 1] or a[i, 2] != b[i, 2]:
            p = _lab(linear[a[i, 0]], linear[a[i, 1]], linear[a[i, 2]], to_white)
            q = _lab(linear[b[i, 0]], linear[b[i, 1]], linear[b[i, 2]], to_white)
            total += lab_difference(p[0], p[1], p[2], q[0], q[1], q[2])
    return total


@numba.njit(cache=True, nogil=True)
def _lab(r: float, g: float, b: float, to_white: np.ndarray) -> tuple[float, float, float]:
    """CIELAB (CIE 15) of linear RGB."""
    fx = _compress(to_white[0, 0] * r + to_white[0, 1] * g + to_white[0, 2] * b)
    fy = _compress(to_white[1, 0] * r + to_white[1, 1] * g + to_white[1, 2] * b)
    fz = _compress(to_white[2, 0] * r + to_white[2, 1] * g + to_white[2, 2] * b)
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@numba.njit(cache=True, nogil=True)
def _compress(t: float) -> float:
    return np.cbrt(t) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116


@numba.njit(cache=True, nogil=True)
def lab_difference(l1: float, a1: float, b1: float, l2: float, a2: float, b2: float) -> float:
    """CIEDE2000 of two CIELAB colours (Sharma, Wu, Dalal 2005, equations 2 to 22)."""
    c_bar = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    grey = 1.5 - 0.5 * math.sqrt(c_bar**7 / (c_bar**7 + 25.0**7))
    a1, a2 = a1 * grey, a2 * grey
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = math.atan2(b1, a1) % (2 * math.pi), math.atan2(b2, a2) % (2 * math.pi)
    turn = h2 - h1
    if turn > math.pi:
        turn -= 2 * math.pi
    elif turn < -math.pi:
        turn += 2 * math.pi
    if c1 * c2 == 0:
        turn, mean_h = 0.0, h1 + h2
    else:
        mean_h = h1 + turn / 2
    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    hue = 2 * math.sqrt(c1 * c2) * math.sin(turn / 2)
    t = (
        1
        - 0.17 * math.cos(mean_h - math.pi / 6)
        + 0.24 * math.cos(2 * mean_h)
        + 0.32 * math.cos(3 * mean_h + math.pi / 30)
        - 0.20 * math.cos(4 * mean_h - 63 * math.pi / 180)
    )
    degrees = math.degrees(mean_h) % 360
    bend = 60 * math.exp(-(((degrees - 275) / 25) ** 2))
    turning = -math.sin(math.radians(bend)) * 2 * math.sqrt(mean_c**7 / (mean_c**7 + 25.0**7))
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / math.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    dl, dc, dh = (l2 - l1) / s_l, (c2 - c1) / s_c, hue / s_h
    return math.sqrt(max(0.0, dl * dl + dc * dc + dh * dh + turning * dc * dh))
