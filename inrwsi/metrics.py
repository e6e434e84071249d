"""How far a decoded picture is from the original: PSNR, of exact integer sums that agree in any order, and SSIM."""

from __future__ import annotations

import math

import numba
import numpy as np

from inrwsi.errors import UsageError

WINDOW_PX = 11  # of SSIM, a side
LUMA_WEIGHTS = (0.299, 0.587, 0.114)

_SIGMA = 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class SquaredError:
    """Running sum of squared differences over windows, e.g. region by region of a slide too large for memory.

    Attributes:
        squares: sum of squared differences over all samples so far.
        samples: number of samples (pixels x channels) so far.
        peak: the largest sample there can be, 255 or 65535, by what was counted.
    """

    def __init__(self) -> None:
        self.squares = 0
        self.samples = 0
        self.peak = 255

    def add(self, a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Count two windows, (h, w) or (h, w, C), where `mask` (h, w) bool is True (everywhere without one).

        Both are uint8 or both uint16, as all windows are. UsageError if shapes or dtypes do not fit.
        """
        if a.shape != b.shape or a.dtype != b.dtype or a.dtype not in (np.uint8, np.uint16):
            raise UsageError(
                f"pictures to compare must be uint8 (or both uint16) and of one shape, not {a.dtype} {a.shape} and "
                f"{b.dtype} {b.shape}"
            )
        peak = int(np.iinfo(a.dtype).max)
        if self.samples and peak != self.peak:
            raise UsageError(f"windows of {a.dtype} cannot be counted with others whose peak is {self.peak}")
        self.peak = peak
        if mask is not None and (mask.shape != a.shape[:2] or mask.dtype != np.bool_):
            raise UsageError(f"the mask must be bool {a.shape[:2]}; this is {mask.dtype} {mask.shape}")
        difference = a.astype(np.int32 if peak == 255 else np.int64) - b
        if mask is not None:
            difference = difference[mask]
        self.squares += int(np.square(difference).sum(dtype=np.int64))
        self.samples += difference.size

    @property
    def mse(self) -> float:
        """Mean squared error over all samples; nan before any was counted."""
        return self.squares / self.samples if self.samples else math.nan

    @property
    def psnr_db(self) -> float:
        """10 log10(peak^2 / MSE), the MSE taken over all channels together; inf if identical, nan without samples."""
        if self.samples and not self.squares:
            return math.inf
        return 10 * math.log10(self.peak**2 / self.mse) if self.samples else math.nan


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB of two pictures, both uint8 or both uint16; see `SquaredError`."""
    error = SquaredError()
    error.add(a, b, mask)
    return error.psnr_db


def luma_of(pixels: np.ndarray) -> np.ndarray:
    """(h, w, C) -> (h, w) float32, 0 to 255, not rounded: BT.601 of three channels, the mean of any others.

    Of uint16 samples 65535 becomes 255.
    """
    values = pixels.astype(np.float32) if pixels.dtype == np.uint8 else pixels / np.float32(257)
    return values @ np.array(LUMA_WEIGHTS, np.float32) if pixels.shape[2] == 3 else values.mean(axis=2)


def ssim_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM, and contrast times structure alone, of each window that lies within two pictures of 0 to 255.

    Wang, Bovik, Sheikh, Simoncelli 2004, section III.B: 11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03,
    L = 255.

    Args:
        a, b: (h, w) float32.

    Returns:
        Two of (h - 10, w - 10) float32, with nothing in them where a side is under 11 pixels.
    """
    offsets = np.arange(WINDOW_PX) - WINDOW_PX // 2
    taps = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return _ssim_maps(a, b, taps / taps.sum())


@numba.njit(cache=True, nogil=True)
def _ssim_maps(a: np.ndarray, b: np.ndarray, taps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `ssim_maps`; taps: (11,) float64, which sum to 1."""
    n, w = taps.size, a.shape[1]
    h_out, w_out = max(0, a.shape[0] - n + 1), max(0, w - n + 1)
    ssim = np.empty((h_out, w_out), np.float32)
    structure = np.empty((h_out, w_out), np.float32)
    column = np.empty((4, w))  # weighted sums down the window: a, b, a^2 + b^2, a b
    window = np.empty((4, w_out))
    for y in range(h_out):
        column[:] = 0.0
        for k in range(n):
            tap = taps[k]
            for x in range(w):
                p, q = np.float64(a[y + k, x]), np.float64(b[y + k, x])
                column[0, x] += tap * p
                column[1, x] += tap * q
                column[2, x] += tap * (p * p + q * q)
                column[3, x] += tap * (p * q)
        window[:] = 0.0
        for field in range(4):
            for k in range(n):
                tap = taps[k]
                for x in range(w_out):
                    window[field, x] += tap * column[field, x + k]
        for x in range(w_out):
            squares = window[0, x] ** 2 + window[1, x] ** 2
            product = window[0, x] * window[1, x]
            contrast = (2 * (window[3, x] - product) + _C2) / (window[2, x] - squares + _C2)
            structure[y, x] = contrast
            ssim[y, x] = contrast * (2 * product + _C1) / (squares + _C1)
    return ssim, structure
