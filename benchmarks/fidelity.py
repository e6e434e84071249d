"""What a pathologist, or a program that works for one, would miss in a decoded picture. No trained weights.

Like `quality`, everything is kept as sums: regions add up (`Tally`). A figure that the pixels cannot give (nuclei of
an original without any, stain vectors of a picture with one stain, the spectrum of a flat picture) is absent.

Metrics:
    nuclei_f1: of the nuclei of the original found again, and no others, by `fidelity_nuclei`; 1 is best.
    nuclei_dice: overlap of the areas of all nuclei; 1 is best.
    count_error, area_error: relative error of the number of nuclei and of their mean area; 0 is best.
    stain_angle_deg: degrees by which the worse of the two stain vectors turned (`fidelity_colour`); 0 is best.
    od_drift: mean absolute drift of optical density over stained cells of 8 um; 0 is best.
    ciede2000: mean colour difference over all pixels; 0 is best.
    spectrum_ratio: power of luma between 0.25 and 0.5 cycles a pixel, decoded to original; 1 is best, less is
        blur, more is noise or block edges.

Beside it, `Tally.spectrum` gives the ratio by frequency: the radial power spectrum after Welch (1967), windowed by
Hann, in blocks of 256 pixels, of BT.601 luma.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

from inrwsi.errors import UsageError

from . import fidelity_colour, fidelity_nuclei
from .quality import check_pair, luma_of

BANDS = 16  # of equal width, from 0 to 0.5 cycles a pixel
BAND_EDGES = tuple(0.5 * i / BANDS for i in range(BANDS + 1))

_BLOCK_PX = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """An original with what is found in it, so that many decoded pictures are held against it for half the time.

    Attributes:
        rgb: (h, w, 3) uint8.
        mpp_um: micrometres a pixel.
        nuclei, stain: of it.
        power: (BANDS,) fp64, sum over blocks of the power of its luma in each frequency band.
    """

    rgb: np.ndarray
    mpp_um: float
    nuclei: fidelity_nuclei.Nuclei
    stain: fidelity_colour.Stain
    power: np.ndarray


@dataclass(frozen=True)
class Tally:
    """What was measured on one or more regions; `a + b` is both together.

    Attributes:
        nuclei: those of the original against those of the decoded picture.
        angle_deg_px, angle_px: stain angle x stained pixels, and stained pixels of the regions that have an angle.
        od_drift, od_values: sum of drifts of optical density, and how many.
        ciede2000, px: sum over pixels, and how many.
        power_original, power_decoded: (BANDS,) sums of power.
    """

    nuclei: fidelity_nuclei.Match
    angle_deg_px: float
    angle_px: int
    od_drift: float
    od_values: int
    ciede2000: float
    px: int
    power_original: tuple[float, ...]
    power_decoded: tuple[float, ...]

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.nuclei + other.nuclei,
            self.angle_deg_px + other.angle_deg_px,
            self.angle_px + other.angle_px,
            self.od_drift + other.od_drift,
            self.od_values + other.od_values,
            self.ciede2000 + other.ciede2000,
            self.px + other.px,
            tuple(a + b for a, b in zip(self.power_original, other.power_original, strict=True)),
            tuple(a + b for a, b in zip(self.power_decoded, other.power_decoded, strict=True)),
        )

    def metrics(self) -> dict[str, float]:
        """Every figure of the module's list that these pixels give."""
        found = self.nuclei.metrics()
        if self.angle_px:
            found["stain_angle_deg"] = self.angle_deg_px / self.angle_px
        if self.od_values:
            found["od_drift"] = self.od_drift / self.od_values
        found["ciede2000"] = self.ciede2000 / self.px
        fine = sum(self.power_original[BANDS // 2 :])
        if fine > 0:
            found["spectrum_ratio"] = sum(self.power_decoded[BANDS // 2 :]) / fine
        return found

    def spectrum(self) -> tuple[float, ...]:
        """Power decoded to original in the bands between `BAND_EDGES`; empty if the original is flat in one."""
        if not all(self.power_original):
            return ()
        return tuple(d / o for d, o in zip(self.power_decoded, self.power_original, strict=True))


def reference(original: np.ndarray, *, mpp_um: float = fidelity_nuclei.WORKING_MPP_UM) -> Reference:
    """Look once at an original, (h, w, 3) uint8 sRGB. UsageError if it is anything else, or mpp_um is not positive."""
    check_pair(original, original)
    if not mpp_um > 0:
        raise UsageError(f"micrometres a pixel must be positive, not {mpp_um}")
    return Reference(
        original,
        mpp_um,
        fidelity_nuclei.find_nuclei(original, mpp_um),
        fidelity_colour.stain_of(original, mpp_um),
        _band_power(luma_of(original)),
    )


def tally(original: Reference, decoded: np.ndarray) -> Tally:
    """Hold a decoded picture, (h, w, 3) uint8, against its original. UsageError if shape or dtype differ from it."""
    check_pair(original.rgb, decoded)
    stain = fidelity_colour.stain_of(decoded, original.mpp_um, original.stain.stained)
    angle_deg = fidelity_colour.vector_angle_deg(original.stain, stain)
    angle_px = 0 if angle_deg is None else int(np.count_nonzero(original.stain.stained))
    od_drift, od_values = fidelity_colour.od_drifts(original.stain, stain, original.mpp_um)
    return Tally(
        nuclei=fidelity_nuclei.match(original.nuclei, fidelity_nuclei.find_nuclei(decoded, original.mpp_um)),
        angle_deg_px=(angle_deg or 0.0) * angle_px,
        angle_px=angle_px,
        od_drift=od_drift,
        od_values=od_values,
        ciede2000=fidelity_colour.ciede2000_sum(original.rgb, decoded),
        px=decoded.shape[0] * decoded.shape[1],
        power_original=tuple(original.power.tolist()),
        power_decoded=tuple(_band_power(luma_of(decoded)).tolist()),
    )


def measure(
    original: np.ndarray, decoded: np.ndarray, *, mpp_um: float = fidelity_nuclei.WORKING_MPP_UM
) -> dict[str, float]:
    """The figures of one pair of (h, w, 3) uint8 pictures at `mpp_um` micrometres a pixel, named as listed above."""
    check_pair(original, decoded)
    return tally(reference(original, mpp_um=mpp_um), decoded).metrics()


def _band_power(luma: np.ndarray) -> np.ndarray:
    """Power in each frequency band, summed over the blocks of (h, w) float32: (BANDS,) fp64."""
    h, w = (min(side, _BLOCK_PX) for side in luma.shape)
    rows, columns = luma.shape[0] // h, luma.shape[1] // w
    blocks = luma[: rows * h, : columns * w].reshape(rows, h, columns, w).swapaxes(1, 2)
    window = (np.hanning(h + 2)[1:-1, None] * np.hanning(w + 2)[1:-1]).astype(np.float32)
    # The mean in fp64, so that a block of one colour has no power at all rather than that of rounding.
    blocks = (blocks - blocks.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)) * window
    spectrum = fft.rfft2(blocks)
    power = np.square(np.abs(spectrum), dtype=np.float64).sum(axis=(0, 1))
    band_of, count = _bands(h, w)
    return np.bincount(band_of.ravel(), weights=(power * count).ravel(), minlength=BANDS + 1)[:BANDS]


@lru_cache(maxsize=8)
def _bands(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """For each coefficient of a real 2-D transform of (h, w): its band (BANDS beyond 0.5), and how often it counts."""
    columns = np.fft.rfftfreq(w)
    radius = np.hypot(np.fft.fftfreq(h)[:, None], columns[None, :])
    twice = np.where((columns > 0) & (columns < 0.5), 2.0, 1.0)  # its mirror image is left out of a real transform
    return np.minimum(radius * 2 * BANDS, BANDS).astype(np.intp), np.broadcast_to(twice, radius.shape)
