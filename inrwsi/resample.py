"""From samples of a slide to output pixels: means under a footprint, and cubic interpolation between the samples.

A footprint that cuts a source sample takes its share of it. Shares are whole 4096ths, cubic weights whole 16384ths, and
sums are integers, so an output pixel has one value however the source was cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from inrwsi.errors import UsageError

SHARE = 4096
PHASES = 4096
CUBIC_UNIT = 16384
CUBIC_REACH = 2  # samples beyond those that output pixels lie in, along each axis
SLACK = 1e-6  # of a source that is one sample wide: what covers less of it does not cover it
MOST_ROWS = 1024  # of a block, taken together: 32 bits hold their sum at 255 times 4096 each (of 16 bits 64 bits do)
MOST_KNOWN = 4096  # blocks of a row or column whose weights are kept
MOST_SIDE = {1: 2**15, 2: 2**11}  # samples under an output pixel, by bytes of one: 4096^2 times the sum is below 2^63
UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class Sampling:
    """How densely a slide is sampled; by default at its pixels. One of the two at most is not the default.

    Attributes:
        finer: samples a level-0 pixel, along each axis.
        octave: a sample stands for 2^octave level-0 pixels, along each axis.
    """

    finer: int = 1
    octave: int = 0

    def __post_init__(self) -> None:
        if self.finer < 1 or self.octave < 0 or (self.finer > 1 and self.octave > 0):
            raise ValueError(f"{self}: should be finer than level 0, coarser, or neither")

    @property
    def a_px(self) -> float:
        """Samples a level-0 pixel, along each axis."""
        return self.finer / 2**self.octave

    @property
    def begins(self) -> float:
        """Where the slide begins, in samples, within the first one.

        The low-pass of the 9/7 wavelet lies on the even samples (ISO/IEC 15444-1, Annex F): sample i of octave k is the
        slide about the centre of level-0 pixel 2^k i, not about the middle of the 2^k pixels from there on.
        """
        return 0.5 - 0.5 / 2**self.octave

    def samples_wh(self, l0_wh: tuple[int, int]) -> tuple[int, int]:
        """Samples of a slide: the last of an octave may reach beyond the slide's edge."""
        return (-(-l0_wh[0] * self.finer >> self.octave), -(-l0_wh[1] * self.finer >> self.octave))

    def ends(self, l0_wh: tuple[int, int]) -> tuple[float, float]:
        """Where the slide ends, in samples: up to half a sample before the end of the last one, or beyond it."""
        return (l0_wh[0] * self.a_px + self.begins, l0_wh[1] * self.a_px + self.begins)


def axis_shares(
    start: float,
    step: float,
    out: tuple[int, int],
    source: tuple[int, int],
    begins: float = 0.0,
    ends: float = np.inf,
) -> tuple[int, np.ndarray]:
    """How much of each source sample of a block lies under each output pixel, along one axis.

    The first sample goes from where the source begins, the last, number ceil(ends - begins) - 1, to where it ends. Of
    a source of one sample any part that counts at all counts as much: the slide may be much thinner than the sample.

    Args:
        start, step: output pixel j covers [start + j * step, start + (j + 1) * step), in source samples.
        out: first and past-the-last output pixel to consider.
        source: first and past-the-last source sample of the block.
        begins, ends: of the source; what lies beyond has no share.

    Returns:
        The first output pixel that the block touches, and (touched, block length) fp64 shares, whole 4096ths in
        units of 1/4096; with no output pixel touched, an array of no rows.
    """
    low = max(out[0], int(np.floor((source[0] - start) / step)) - 1)
    high = min(out[1], int(np.ceil((source[1] - start) / step)) + 1)
    if high <= low:
        return out[0], np.zeros((0, source[1] - source[0]))
    edges = start + np.arange(low, high + 1) * step
    # Of each output pixel only the samples about it, one more on either side: the last may go on beyond its own end.
    wide = min(int(np.ceil(step)) + 3, source[1] - source[0])
    leftmost = np.clip(np.floor(edges[:-1]) - 1, source[0], source[1] - wide)
    samples = leftmost[:, None] + np.arange(wide)
    count = np.ceil(ends - begins)
    begin = np.maximum(edges[:-1, None], np.maximum(samples, begins))
    end = np.minimum(edges[1:, None], np.where(samples < count - 1, samples + 1, ends))
    common = end - begin
    near = (
        np.rint(np.maximum(common, 0.0) * SHARE)
        if count > 1
        else np.where(common > SLACK * (ends - begins), SHARE, 0.0)
    )
    shares = np.zeros((high - low, source[1] - source[0]))
    np.put_along_axis(shares, samples.astype(np.int64) - source[0], near, axis=1)
    return _touched(low, shares, out)


def axis_cubic(
    start: float, step: float, out: tuple[int, int], source: tuple[int, int], samples: int
) -> tuple[int, np.ndarray]:
    """The weight of each source sample of a block in each output pixel, along one axis: Keys (1981), a = -1/2.

    An output pixel is the value at its centre. The samples' grid goes on beyond its ends with the first and the last
    sample. Pixels whose centre lies outside the grid have no weights.

    Args:
        start, step, out, source: as for `axis_shares`.
        samples: of the whole source, along the axis.

    Returns:
        As `axis_shares`, in units of 1 / `CUBIC_UNIT`; over all blocks an output pixel's weights sum to it exactly.
    """
    low = max(out[0], int(np.floor((source[0] - start) / step - 3 / step)) - 1)
    high = min(out[1], int(np.ceil((source[1] - start) / step + 3 / step)) + 1)
    if high <= low:
        return out[0], np.zeros((0, source[1] - source[0]))
    centres = np.rint((start + (np.arange(low, high) + 0.5) * step) * PHASES)
    inside = (centres >= 0) & (centres < samples * PHASES)
    first, phase = np.divmod(centres - PHASES // 2, PHASES)
    taps = np.clip(first.astype(np.int64)[:, None] + np.arange(-1, 3), 0, samples - 1) - source[0]
    weights = np.zeros((high - low, source[1] - source[0]))
    rows, columns = np.nonzero((taps >= 0) & (taps < weights.shape[1]) & inside[:, None])
    np.add.at(weights, (rows, taps[rows, columns]), cubic_weights(phase)[rows, columns])
    return _touched(low, weights, out)


def cubic_weights(phase: np.ndarray) -> np.ndarray:
    """(n, 4) fp64 weights, whole and summing to `CUBIC_UNIT`, at (n,) whole `PHASES`-ths past the second sample."""
    t = phase[:, None] / PHASES  # 12 bits: the polynomials are exact in fp64
    away = np.abs(t - np.arange(-1, 3))
    near, far = (1.5 * away - 2.5) * away * away + 1, ((2.5 - 0.5 * away) * away - 4) * away + 2
    weights = np.rint(np.where(away <= 1, near, far) * CUBIC_UNIT)
    rows = np.arange(len(weights))
    weights[rows, weights.argmax(axis=1)] += CUBIC_UNIT - weights.sum(axis=1)
    return weights


def _touched(low: int, weights: np.ndarray, out: tuple[int, int]) -> tuple[int, np.ndarray]:
    """The first output pixel of which a weight is not 0, and the weights from it to the last such one."""
    touched = np.flatnonzero(weights.any(axis=1))
    if len(touched) == 0:
        return out[0], weights[:0]
    return low + int(touched[0]), weights[touched[0] : touched[-1] + 1]


@dataclass(frozen=True)
class AxisWeights:
    """What a block's samples weigh in output pixels, along an axis.

    Attributes:
        first: output pixel, counted from the first of the rectangle.
        weights: (pixels, samples) int32.
        spans: (pixels, 2) int32: the first and past-the-last sample of each that weighs anything.
        sums: (pixels,) int64, of the weights.
    """

    first: int
    weights: np.ndarray
    spans: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, first: int, weights: np.ndarray) -> AxisWeights:
        """From what `axis_shares` and `axis_cubic` give."""
        there = weights != 0
        spans = np.stack((there.argmax(axis=1), weights.shape[1] - there[:, ::-1].argmax(axis=1)), axis=1)
        whole = weights.astype(np.int32)
        return cls(first, whole, spans.astype(np.int32), whole.sum(axis=1, dtype=np.int64))


class AreaSum:
    """The sums under a rectangle of output pixels, filled block by block in any order. Not thread safe.

    Args:
        out_x, out_y: first and past-the-last output column and row.
        start_xy, step: output pixel (i, j) covers `start + (i, j) * step` to one step on, in source samples.
        channels: of the source.
        begins, ends: where the source begins, along both axes, and ends, as for `axis_shares`.
        dtype: of the source and the result, uint8 or uint16.

    Raises:
        UsageError: an output pixel covers so much that 64 bits cannot hold its sum: 2^15 samples a side of 8 bits, 2^11
            of 16.
    """

    def __init__(
        self,
        out_x: tuple[int, int],
        out_y: tuple[int, int],
        start_xy: tuple[float, float],
        step: float | tuple[float, float],
        channels: int,
        begins: float = 0.0,
        ends: tuple[float, float] = (np.inf, np.inf),
        dtype: np.dtype = UINT8,
    ) -> None:
        self._out, self._start, self._begins, self._ends = (out_x, out_y), start_xy, begins, ends
        self._step = step if isinstance(step, tuple) else (step, step)
        self._dtype = dtype
        # Samples under an output pixel along an axis; cubic interpolation takes four.
        under = [max(4.0, min(self._step[a], ends[a] - begins)) for a in (0, 1)]
        most = MOST_SIDE[dtype.itemsize]
        if under[0] * under[1] > most**2:
            raise UsageError(
                f"an output pixel is the mean of {under[0]:,.0f} x {under[1]:,.0f} samples; of {8 * dtype.itemsize} "
                f"bits at most {most:,} x {most:,} can be summed, so ask for a larger picture"
            )
        shape = (out_y[1] - out_y[0], out_x[1] - out_x[0])
        self._sum = np.zeros((*shape, channels), np.int64)
        self._weight = np.zeros(shape, np.int64)
        self._known: dict[tuple[int, int, int], AxisWeights] = {}

    def _axis(self, axis: int, source: tuple[int, int]) -> tuple[int, np.ndarray]:
        """First output pixel that a block's samples count in along an axis (0 is x), and their weights."""
        ends = self._ends[axis]
        return axis_shares(self._start[axis], self._step[axis], self._out[axis], source, self._begins, ends)

    def _weights(self, axis: int, first: int, count: int) -> AxisWeights:
        """The same for `count` samples from `first`, kept: blocks lie in rows and columns."""
        key = (axis, first, count)
        if key not in self._known:
            if len(self._known) == MOST_KNOWN:  # a slide of 2^30 columns has 2^22 columns of blocks
                self._known.clear()
            pixel, weights = self._axis(axis, (first, first + count))
            self._known[key] = AxisWeights.of(pixel - self._out[axis][0], weights)
        return self._known[key]

    def add(self, block_xy: tuple[int, int], block_wh: tuple[int, int], block: np.ndarray) -> None:
        """Add a source block: (h, w, channels) of the dtype, or (channels,) integers where it is one colour."""
        x = self._weights(0, block_xy[0], block_wh[0])
        if block.ndim == 3 and block_wh[1] > MOST_ROWS:
            for row in range(0, block_wh[1], MOST_ROWS):
                part = block[row : row + MOST_ROWS]
                self.add((block_xy[0], block_xy[1] + row), (block_wh[0], len(part)), part)
            return
        y = self._weights(1, block_xy[1], block_wh[1])
        if len(x.sums) == 0 or len(y.sums) == 0:
            return
        at = np.s_[y.first : y.first + len(y.sums), x.first : x.first + len(x.sums)]
        weight = y.sums[:, None] * x.sums[None, :]
        self._weight[at] += weight
        if block.ndim == 1:
            self._sum[at] += weight[:, :, None] * block
            return
        h, w, channels = block.shape
        # One kind of array, or the kernel is compiled for each: no copy where it is that kind.
        rows = np.require(block, self._dtype, ["C", "W"]).reshape(h, w * channels)
        line = np.empty(w * channels, np.int32 if self._dtype == np.uint8 else np.int64)
        _add(rows, y.weights, y.spans, x.weights, x.spans, self._sum, y.first, x.first, line)

    def result(self, outside: np.ndarray) -> np.ndarray:
        """(rows, columns, channels) means of the dtype, `outside` (channels,) where no source lies under a pixel."""
        means = np.empty(self._sum.shape, self._dtype)
        _means(self._sum, self._weight, outside.astype(self._dtype), float(np.iinfo(self._dtype).max), means)
        return means


class CubicSum(AreaSum):
    """The same for a source that is enlarged: cubic interpolation along each axis whose step is below 1.

    All blocks within `CUBIC_REACH` samples of the output pixels have to be added.

    Args:
        samples_wh: of the whole source. The others are as for `AreaSum`; of 16 bits the weights of four samples along
            both axes leave 64 bits far from full.
    """

    def __init__(
        self,
        out_x: tuple[int, int],
        out_y: tuple[int, int],
        start_xy: tuple[float, float],
        step: tuple[float, float],
        channels: int,
        samples_wh: tuple[int, int],
        dtype: np.dtype = UINT8,
    ) -> None:
        super().__init__(out_x, out_y, start_xy, step, channels, dtype=dtype)
        self._samples = samples_wh

    def _axis(self, axis: int, source: tuple[int, int]) -> tuple[int, np.ndarray]:
        if self._step[axis] >= 1:
            return super()._axis(axis, source)
        return axis_cubic(self._start[axis], self._step[axis], self._out[axis], source, self._samples[axis])


@njit(cache=True, nogil=True, error_model="numpy")
def _add(
    rows: np.ndarray,
    y_weights: np.ndarray,
    y_spans: np.ndarray,
    x_weights: np.ndarray,
    x_spans: np.ndarray,
    total: np.ndarray,
    first_y: int,
    first_x: int,
    line: np.ndarray,
) -> None:
    """Add the weighted samples of `rows` (h, w * C) to `total` (rows, columns, C) int64.

    `line` (w * C,) is what a row's sums are held in: int32 for samples of 8 bits, int64 for 16.
    """
    channels = total.shape[2]
    whole = line.dtype.type
    for j in range(len(y_spans)):
        line[:] = 0
        for y in range(y_spans[j, 0], y_spans[j, 1]):
            weight = y_weights[j, y]
            for n in range(line.size):
                line[n] += whole(weight * whole(rows[y, n]))
        if channels == 3:  # three sums at a time take half the time of one after the other
            for i in range(len(x_spans)):
                red, green, blue = np.int64(0), np.int64(0), np.int64(0)
                for x in range(x_spans[i, 0], x_spans[i, 1]):
                    across, at = np.int64(x_weights[i, x]), 3 * x
                    red += across * line[at]
                    green += across * line[at + 1]
                    blue += across * line[at + 2]
                total[first_y + j, first_x + i, 0] += red
                total[first_y + j, first_x + i, 1] += green
                total[first_y + j, first_x + i, 2] += blue
            continue
        for i in range(len(x_spans)):
            for c in range(channels):
                value = np.int64(0)
                for x in range(x_spans[i, 0], x_spans[i, 1]):
                    value += np.int64(x_weights[i, x]) * line[x * channels + c]
                total[first_y + j, first_x + i, c] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _means(total: np.ndarray, weights: np.ndarray, outside: np.ndarray, highest: float, means: np.ndarray) -> None:
    """To `means`: `total` (rows, columns, C) over `weights` (rows, columns), rounded, or `outside` where that is 0."""
    for j in range(total.shape[0]):
        for i in range(total.shape[1]):
            weight = np.float64(weights[j, i])
            for c in range(total.shape[2]):
                mean = np.floor(np.float64(total[j, i, c]) / weight + 0.5)
                means[j, i, c] = min(max(mean, 0.0), highest) if weight > 0 else outside[c]
