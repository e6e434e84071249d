"""Nuclei by a fixed classical pipeline, and how many of them are found again in a decoded picture.

The pipeline has no trained weights and no setting that looks at the other picture, so both pictures get the same
treatment and a difference in what it finds is a difference of pixels:

1. Where nuclei are: `inrwsi.nuclei`, by haematoxylin at about 0.5 um a pixel.
2. Watershed on the smoothed distance to the border, which parts touching nuclei.
3. Objects of 8 to 400 um^2 stay.

It is a stand-in for the detectors that pathologists use, made for H&E. On other stains it finds what is dark against
its surroundings: brown as much as blue in DAB immunohistochemistry, cells rather than nuclei in a strong Giemsa. There
the figures say whether the same objects are found again, not how many nuclei there are. Fluorescence gives none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from inrwsi.nuclei import WORKING_MPP_UM, nuclei_map, reduction

MATCH_IOU = 0.5  # above it an object can have one partner only (Kirillov et al. 2019, section 4.1)
_MERGE_PX = 7
_AREA_PX = (32, 1600)


@dataclass(frozen=True)
class Nuclei:
    """What the pipeline found in one picture.

    Attributes:
        labels: (h, w) int32 in working pixels, 0 outside nuclei, else 1 to `count`.
        areas_px: (count,) int64, working pixels of each.
        working_mpp_um: side of a working pixel.
    """

    labels: np.ndarray
    areas_px: np.ndarray
    working_mpp_um: float

    @property
    def count(self) -> int:
        return len(self.areas_px)


@dataclass(frozen=True)
class Match:
    """Nuclei of an original against those of its decoded picture, as sums: `a + b` is both regions together.

    Attributes:
        found, original, decoded: nuclei matched one to one with an intersection over union above 0.5; nuclei in
            each picture.
        common_px, original_px, decoded_px: working pixels of nuclei in both, and in each.
    """

    found: int
    original: int
    decoded: int
    common_px: int
    original_px: int
    decoded_px: int

    def __add__(self, other: Match) -> Match:
        return Match(
            self.found + other.found,
            self.original + other.original,
            self.decoded + other.decoded,
            self.common_px + other.common_px,
            self.original_px + other.original_px,
            self.decoded_px + other.decoded_px,
        )

    def metrics(self) -> dict[str, float]:
        """nuclei_f1, nuclei_dice, count_error and area_error (of the mean area; both errors relative and absolute in
        sign). Those that an original without nuclei leaves open are absent."""
        found: dict[str, float] = {}
        if self.original:
            found["nuclei_f1"] = 2 * self.found / (self.original + self.decoded)
            found["nuclei_dice"] = 2 * self.common_px / (self.original_px + self.decoded_px)
            found["count_error"] = abs(self.decoded - self.original) / self.original
        if self.original and self.decoded:
            mean_px = self.original_px / self.original
            found["area_error"] = abs(self.decoded_px / self.decoded - mean_px) / mean_px
        return found


def find_nuclei(rgb: np.ndarray, mpp_um: float = WORKING_MPP_UM) -> Nuclei:
    """Run the pipeline on (h, w, 3) uint8 RGB of `mpp_um` micrometres a pixel."""
    factor = reduction(mpp_um)
    inside = nuclei_map(rgb, factor)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside).astype(np.float32), 1.0)
    peaks = (depth == ndimage.maximum_filter(depth, _MERGE_PX)) & inside
    labels = watershed(-depth, ndimage.label(peaks, np.ones((3, 3)))[0], mask=inside)
    return _of_size(labels, mpp_um * factor)


def match(original: Nuclei, decoded: Nuclei) -> Match:
    """Pair the nuclei of two pictures of one size one to one, by an intersection over union above 0.5."""
    a, b = original.labels.ravel(), decoded.labels.ravel()
    both = np.flatnonzero((a > 0) & (b > 0))
    pairs, common = np.unique(a[both].astype(np.int64) * (decoded.count + 1) + b[both], return_counts=True)
    union = original.areas_px[pairs // (decoded.count + 1) - 1] + decoded.areas_px[pairs % (decoded.count + 1) - 1]
    return Match(
        found=int(np.count_nonzero(common > MATCH_IOU * (union - common))),
        original=original.count,
        decoded=decoded.count,
        common_px=len(both),
        original_px=int(original.areas_px.sum()),
        decoded_px=int(decoded.areas_px.sum()),
    )


def _of_size(labels: np.ndarray, mpp_um: float) -> Nuclei:
    """Drop what is too small or too large, and number the rest from 1."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    scale = (WORKING_MPP_UM / mpp_um) ** 2
    kept = (areas >= _AREA_PX[0] * scale) & (areas <= _AREA_PX[1] * scale)
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return Nuclei(numbers[labels], areas[kept], mpp_um)
