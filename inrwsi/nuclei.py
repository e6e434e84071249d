"""Where nuclei are in H&E, by a fixed classical pipeline without trained weights: the map, not yet single nuclei.

1. Optical density of each channel, split into haematoxylin, eosin and a remainder by the vectors of Ruifrok and
   Johnston (2001), at about 0.5 um a pixel (finer pictures are reduced by whole box means first).
2. Haematoxylin smoothed by a Gaussian of 0.75 um; threshold by Otsu (1979) over stained pixels, within bounds; and
   it must stand out from its surroundings of 25 um.
3. Opening, and holes filled.

`benchmarks.fidelity_nuclei` goes on from there; the fit can weigh by it (`fit.losses`).
"""

from __future__ import annotations

import numpy as np

from inrwsi.errors import BackendUnavailable

WORKING_MPP_UM = 0.5

# Ruifrok and Johnston 2001, table 1: optical density in R, G and B of each stain.
HAEMATOXYLIN = (0.650, 0.704, 0.286)
EOSIN = (0.072, 0.990, 0.105)

_SMOOTH_PX = 1.5
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
    try:
        from scipy import ndimage
    except ImportError:
        raise BackendUnavailable(
            "the map of nuclei needs scipy, which is not installed: pip install inrwsi[bench]"
        ) from None
    haematoxylin = _haematoxylin_od(rgb, factor)
    smooth = ndimage.gaussian_filter(haematoxylin, _SMOOTH_PX, truncate=3.0)
    inside = smooth > _threshold(smooth)
    inside &= smooth > ndimage.uniform_filter(haematoxylin, _SURROUNDINGS_PX) + _CONTRAST_OD
    filled: np.ndarray = ndimage.binary_fill_holes(ndimage.binary_opening(inside, iterations=2))
    return filled


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
