"""A slide's own colour transform: orthonormal, decorrelated over its tissue, in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNIT = 2**14  # one, in the fixed point of the matrix
MEAN_UNIT = 2**6  # one grey level, in the fixed point of the mean


@dataclass(frozen=True)
class Klt:
    """Karhunen-Loeve transform of RGB: components = matrix (rgb - mean).

    Attributes:
        matrix: 3 x 3 rows of integers in units of 1 / 2^14, orthonormal to rounding. Row 0 is brightness.
        mean: of RGB, integers in units of 1 / 64 grey level.
    """

    matrix: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
    mean: tuple[int, int, int]

    @classmethod
    def of(cls, rgb: np.ndarray) -> Klt:
        """From sample pixels (n, 3) uint8: of tissue, so that glass does not turn the axes.

        Signs are fixed, so that equal tissue gives equal components: brightness grows with component 0, and the
        largest entry of the others is positive.
        """
        x = rgb.reshape(-1, 3).astype(np.float64)
        mean = x.mean(0)
        centred = x - mean
        # A trace of grey variance: without it a picture of one colour, or of greys, would leave the axes to chance.
        covariance = centred.T @ centred / len(x) + 1e-3 * (np.ones((3, 3)) + np.diag((0.3, 0.1, 0.2)))
        _, vectors = np.linalg.eigh(covariance)
        rows = vectors.T[::-1].copy()
        rows[0] *= np.sign(rows[0].sum()) or 1.0
        for row in rows[1:]:
            row *= np.sign(row[np.abs(row).argmax()])
        quantised = np.rint(rows * UNIT).astype(int)
        return cls(
            tuple(tuple(int(v) for v in row) for row in quantised),  # type: ignore[arg-type]
            tuple(int(v) for v in np.rint(mean * MEAN_UNIT)),  # type: ignore[arg-type]
        )

    def forward(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 to components (3, h, w) float32, in grey levels about the mean."""
        matrix = np.array(self.matrix, np.float32) / UNIT
        centred = rgb.astype(np.float32) - np.array(self.mean, np.float32) / MEAN_UNIT
        return np.ascontiguousarray((centred @ matrix.T).transpose(2, 0, 1))
