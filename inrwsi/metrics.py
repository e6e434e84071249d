"""How far a decoded picture is from the original. Exact integer sums, so that parts added in any order agree."""

from __future__ import annotations

import math

import numpy as np

from inrwsi.errors import UsageError


class SquaredError:
    """Running sum of squared differences over windows, e.g. region by region of a slide too large for memory.

    Attributes:
        squares: sum of squared differences over all samples so far.
        samples: number of samples (pixels x channels) so far.
    """

    def __init__(self) -> None:
        self.squares = 0
        self.samples = 0

    def add(self, a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Count two windows of uint8, (h, w) or (h, w, C), where `mask` (h, w) bool is True (everywhere without one).

        UsageError if shapes or dtypes do not fit.
        """
        if a.shape != b.shape or a.dtype != np.uint8 or b.dtype != np.uint8:
            raise UsageError(
                f"pictures to compare must be uint8 and of one shape, not {a.dtype} {a.shape} and {b.dtype} {b.shape}"
            )
        if mask is not None and (mask.shape != a.shape[:2] or mask.dtype != np.bool_):
            raise UsageError(f"the mask must be bool {a.shape[:2]}; this is {mask.dtype} {mask.shape}")
        difference = a.astype(np.int32) - b
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
        """10 log10(255^2 / MSE), the MSE taken over all channels together; inf if identical, nan without samples."""
        if self.samples and not self.squares:
            return math.inf
        return 10 * math.log10(255**2 / self.mse) if self.samples else math.nan


def psnr(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """PSNR in dB of two uint8 pictures; see `SquaredError`."""
    error = SquaredError()
    error.add(a, b, mask)
    return error.psnr_db
