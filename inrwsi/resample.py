"""Area sampling: every output pixel is the mean of the source under its footprint.

A footprint that cuts a source pixel takes its share of it. Shares are whole 4096ths and sums are fp64, so they are
exact, and an output pixel has one value however the source was cut into blocks.
"""

from __future__ import annotations

import numpy as np

SHARE = 4096


def axis_shares(start: float, step: float, out: tuple[int, int], source: tuple[int, int]) -> tuple[int, np.ndarray]:
    """How much of each source pixel of a block lies under each output pixel, along one axis.

    Args:
        start, step: output pixel j covers [start + j * step, start + (j + 1) * step), in source pixels.
        out: first and past-the-last output pixel to consider.
        source: first and past-the-last source pixel of the block.

    Returns:
        The first output pixel that the block touches, and (touched, block length) fp64 shares, whole 4096ths in
        units of 1/4096; with no output pixel touched, an array of no rows.
    """
    low = max(out[0], int(np.floor((source[0] - start) / step)) - 1)
    high = min(out[1], int(np.ceil((source[1] - start) / step)) + 1)
    if high <= low:
        return out[0], np.zeros((0, source[1] - source[0]))
    edges = start + np.arange(low, high + 1) * step
    pixels = np.arange(source[0], source[1], dtype=np.float64)
    begin = np.maximum(edges[:-1, None], pixels[None, :])
    end = np.minimum(edges[1:, None], pixels[None, :] + 1)
    shares = np.rint(np.maximum(end - begin, 0.0) * SHARE)
    touched = np.flatnonzero(shares.any(axis=1))
    if len(touched) == 0:
        return out[0], shares[:0]
    return low + int(touched[0]), shares[touched[0] : touched[-1] + 1]


class AreaSum:
    """The sums under a rectangle of output pixels, filled block by block in any order.

    Args:
        out_x, out_y: first and past-the-last output column and row.
        start_xy, step: output pixel (i, j) covers `start + (i, j) * step` to one step on, in source pixels.
        channels: of the source.
    """

    def __init__(
        self,
        out_x: tuple[int, int],
        out_y: tuple[int, int],
        start_xy: tuple[float, float],
        step: float | tuple[float, float],
        channels: int,
    ) -> None:
        self._x, self._y, self._start = out_x, out_y, start_xy
        self._step = step if isinstance(step, tuple) else (step, step)
        shape = (out_y[1] - out_y[0], out_x[1] - out_x[0])
        self._sum = np.zeros((*shape, channels))
        self._weight = np.zeros(shape)

    def add(self, block_xy: tuple[int, int], block_wh: tuple[int, int], block: np.ndarray) -> None:
        """Add a source block: (h, w, channels) integers, or (channels,) where it is one colour."""
        x0, share_x = axis_shares(self._start[0], self._step[0], self._x, (block_xy[0], block_xy[0] + block_wh[0]))
        y0, share_y = axis_shares(self._start[1], self._step[1], self._y, (block_xy[1], block_xy[1] + block_wh[1]))
        if len(share_x) == 0 or len(share_y) == 0:
            return
        at = np.s_[y0 - self._y[0] : y0 - self._y[0] + len(share_y), x0 - self._x[0] : x0 - self._x[0] + len(share_x)]
        weight = share_y.sum(axis=1)[:, None] * share_x.sum(axis=1)[None, :]
        self._weight[at] += weight
        if block.ndim == 1:
            self._sum[at] += weight[:, :, None] * block
            return
        rows = np.tensordot(share_y, block.astype(np.float64), axes=(1, 0))  # (out rows, w, C)
        self._sum[at] += np.tensordot(rows, share_x, axes=(1, 1)).transpose(0, 2, 1)

    def result(self, outside: np.ndarray, dtype: type[np.unsignedinteger]) -> np.ndarray:
        """(rows, columns, channels) means, `outside` (channels,) where no source lies under a pixel."""
        covered = self._weight > 0
        mean = self._sum / np.where(covered, self._weight, 1.0)[:, :, None]
        return np.where(covered[:, :, None], np.floor(mean + 0.5), outside).astype(dtype)
