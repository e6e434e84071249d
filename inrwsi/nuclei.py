"""Where nuclei are in H&E, by a fixed classical pipeline without trained weights: the map, not yet single nuclei.

1. Optical density of each channel, split into haematoxylin, eosin and a remainder by the vectors of Ruifrok and
   Johnston (2001), at about 0.5 um a pixel (finer pictures are reduced by whole box means first).
2. Haematoxylin smoothed by a Gaussian of 0.75 um; threshold by Otsu (1979) over stained pixels, within bounds; and
   it must stand out from its surroundings of 25 um.
3. Opening, and holes filled.

`benchmarks.fidelity_nuclei` goes on from there; the fit can weigh by it (`fit.losses`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inrwsi.errors import BackendUnavailable

WORKING_MPP_UM = 0.5

# Ruifrok and Johnston 2001, table 1: optical density in R, G and B of each stain.
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)

SMOOTH_PX = 1.5
_SURROUNDINGS_PX = 51
_CONTRAST_OD = 0.03
_STAINED_OD = 0.05
_THRESHOLD_OD = (0.15, 0.60)


def unmixing() -> np.ndarray:
    """(3, 3) fp64: optical densities of R, G and B times it are those of haematoxylin, eosin and a remainder."""
    basis = np.array([HAEMATOXYLIN, EOSIN, np.cross(HAEMATOXYLIN, EOSIN)])
    return np.linalg.inv(basis / np.linalg.norm(basis, axis=1, keepdims=True))


def reduction(mpp_um: float) -> int:
    """Pixels of `mpp_um` micrometres along the side of a working pixel."""
    return max(1, round(WORKING_MPP_UM / mpp_um))


def nuclei_map(rgb: np.ndarray, factor: int = 1) -> np.ndarray:
    """Where nuclei are.

    Args:
        rgb: (h, w, 3) uint8.
        factor: pixels along the side of a working pixel, from `reduction`.

    Returns:
        (h // factor, w // factor) bool; where a side is shorter than `factor`, it is not reduced.

    Raises:
        BackendUnavailable: scipy is not installed.
    """
    ndimage = _ndimage()
    smooth, thresholds = _smooth_and_thresholds(rgb, factor)
    opened = ndimage.binary_opening(smooth > thresholds, iterations=2)
    filled: np.ndarray = ndimage.binary_fill_holes(opened)
    return filled


def nuclei_thresholds(rgb: np.ndarray, factor: int = 1) -> np.ndarray:
    """The smoothed optical density of haematoxylin above which a pixel is of a nucleus, before opening and filling.

    Args, raises: as `nuclei_map`.

    Returns:
        (h // factor, w // factor) float32.
    """
    return _smooth_and_thresholds(rgb, factor)[1]


def _ndimage() -> Any:
    try:
        from scipy import ndimage
    except ImportError:
        raise BackendUnavailable(
            "the map of nuclei needs scipy, which is not installed: pip install inrwsi[bench]"
        ) from None
    return ndimage


def _smooth_and_thresholds(rgb: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin smoothed, and what it has to exceed; (h // factor, w // factor) float32 each."""
    ndimage = _ndimage()
    haematoxylin = _haematoxylin_od(rgb, factor)
    smooth = ndimage.gaussian_filter(haematoxylin, SMOOTH_PX, truncate=3.0)
    surroundings = ndimage.uniform_filter(haematoxylin, _SURROUNDINGS_PX)
    return smooth, np.maximum(surroundings + _CONTRAST_OD, _threshold(smooth)).astype(np.float32)


def _haematoxylin_od(rgb: np.ndarray, factor: int) -> np.ndarray:
    """Optical density of haematoxylin, box means over `factor` pixels: (h // factor, w // factor) float32."""
    shares = unmixing()[:, 0]  # of R, G and B
    od = -np.log10((np.arange(256) + 1) / 256)
    tables = (shares[:, None] * od).astype(np.float32)
    stain = tables[0][rgb[..., 0]] + tables[1][rgb[..., 1]] + tables[2][rgb[..., 2]]
    h, w = stain.shape[0] // factor, stain.shape[1] // factor
    if factor == 1 or not h or not w:
        return stain
    return stain[: h * factor, : w * factor].reshape(h, factor, w, factor).mean(axis=(1, 3))


def _threshold(smooth: np.ndarray) -> float:
    """Otsu's threshold over stained pixels, within bounds, so that pale tissue without nuclei is not split in two."""
    stained = smooth[smooth > _STAINED_OD]
    counts, edges = np.histogram(stained, bins=256, range=(0.0, 1.5))
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * (edges[:-1] + edges[1:]))
    mean_below, mean_above = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    otsu = edges[1:][np.argmax(below * above * (mean_above - mean_below) ** 2)]
    return float(np.clip(otsu, *_THRESHOLD_OD))
