"""A slide's own colour transform: decorrelated over its tissue, orthonormal or with colour drawn in, in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inrwsi.metrics import LUMA_WEIGHTS

UNIT = 2**14  # one, in the fixed point of the matrix
MEAN_UNIT = 2**6  # one grey level, in the fixed point of the mean

Rows = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]


@dataclass(frozen=True)
class Klt:
    """Karhunen-Loeve transform of RGB: components = matrix (rgb - mean).

    Attributes:
        matrix: 3 x 3 rows of integers in units of 1 / 2^14. Row 0 is brightness.
        mean: of RGB, integers in units of 1 / 64 grey level.
        inverse: of `matrix`, rows of integers in the same units; None where that is orthonormal to rounding, and its
            transpose is its inverse.
    """

    matrix: Rows
    mean: tuple[int, int, int]
    inverse: Rows | None = None

    @classmethod
    def of(cls, rgb: np.ndarray, *, luma: float = 1.0) -> Klt:
        """From sample pixels (n, 3) uint8: of tissue, so that glass does not turn the axes.

        Signs are fixed, so that equal tissue gives equal components: brightness grows with component 0, and the
        largest entry of the others is positive.

        Args:
            luma: by how much more than the directions across it that of luma (ITU-R BT.601) is to count: these are
                drawn in by it, so that the same error of a component is that much more of colour than of luma.
        """
        x = rgb.reshape(-1, 3).astype(np.float64)
        mean = x.mean(0)
        drawn = _drawn_in(luma)
        centred = (x - mean) @ drawn
        # A trace of grey variance: without it a picture of one colour, or of greys, would leave the axes to chance.
        covariance = centred.T @ centred / len(x) + 1e-3 * (np.ones((3, 3)) + np.diag((0.3, 0.1, 0.2)))
        _, vectors = np.linalg.eigh(covariance)
        rows = vectors.T[::-1].copy()
        rows[0] *= np.sign(rows[0].sum()) or 1.0
        for row in rows[1:]:
            row *= np.sign(row[np.abs(row).argmax()])
        matrix = rows @ drawn
        return cls(
            _whole(matrix),
            tuple(int(v) for v in np.rint(mean * MEAN_UNIT)),  # type: ignore[arg-type]
            None if luma == 1 else _whole(np.linalg.inv(matrix)),
        )

    def forward(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 to components (3, h, w) float32, in grey levels about the mean."""
        matrix = np.array(self.matrix, np.float32) / UNIT
        h, w, _ = rgb.shape
        mean = np.array(self.mean, np.float32) / MEAN_UNIT
        # Whole rows at a time, which is done in vectors.
        centred = (rgb.reshape(h, 3 * w).astype(np.float32) - np.tile(mean, w)).reshape(h, w, 3)
        return np.ascontiguousarray((centred @ matrix.T).transpose(2, 0, 1))


def _drawn_in(luma: float) -> np.ndarray:
    """(3, 3), symmetric: what lies across luma by 1 / `luma`, luma as it is."""
    axis = np.array(LUMA_WEIGHTS) / np.linalg.norm(LUMA_WEIGHTS)
    along = np.outer(axis, axis)
    return np.eye(3) if luma == 1 else along + (np.eye(3) - along) / luma


def _whole(matrix: np.ndarray) -> Rows:
    """In the file's fixed point."""
    return tuple(tuple(int(v) for v in row) for row in np.rint(matrix * UNIT))  # type: ignore[return-value]
