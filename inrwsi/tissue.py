"""Where a slide holds something, and which pieces of it are plain glass.

Two questions of different weight. `tissue_mask` is a map for choosing training pixels and for reporting quality: it
is generous. `is_blank` decides that pixels are thrown away for one colour: it says no whenever in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

# All levels below are of 255.
_LIGHT = 184  # the darkest channel of glass in bright field
_NEUTRAL = 26  # the largest difference between channels of glass in bright field
_FLAT = 5  # the largest range within 3x3 overview pixels of glass: illumination drifts, tissue has structure
_GLASS_SHARE = 0.003  # with less flat area than that, the overview shows no glass
_UNSCANNED = 2  # distance to the colour that scanners fill unscanned areas with
_DARK_FIELD = 64  # in fluorescence most pixels are darker than that in every channel
_BRIGHT_BOUNDS = (8.0, 22.0)  # of the threshold on the distance from glass
_DARK_BOUNDS = (4.0, 16.0)

# Side of a box in pixels -> how far the mean of any such box of a blank piece may be from the mean of the piece. A
# small speck fits under them: over 4x4 pixels it may add up to 256 levels, and no pixel of it may have more than 40.
_BOX_LIMITS = {1: 40.0, 4: 16.0, 8: 6.0, 16: 4.0}
# What is too thin for the boxes above shows in many of 4x4: a fibre, an edge, a row of bacteria.
_THIN = 5.0
_THIN_SHARE = 0.002
_HINT_DISTANCE = 12.0
_LEVEL_16_BIT = 4  # counts


def tissue_mask(overview: np.ndarray, background: Sequence[int]) -> np.ndarray:
    """Map of everything that is not empty glass, one cell an overview pixel.

    The distance of each pixel from the colour of the glass is thresholded by Otsu's method (1979), bounded so that an
    all-glass overview gives no tissue. Gaps of up to four cells are closed and a rim of one cell is added. Pen marks,
    dust and cover-slip edges are content like anything else. An overview without any glass is all tissue.

    Args:
        overview: (h, w, C) or (h, w), uint8 or uint16, from `SlideSource.overview`.
        background: colour of unscanned areas, one value a channel of the overview.

    Returns:
        (h, w) bool.
    """
    levels, unscanned, dark = _as_levels(overview, background)
    glass = _glass_levels(levels, unscanned, dark)
    if glass is None:
        return np.ones(levels.shape[:2], np.bool_)
    distance = _over_channels(np.maximum, np.abs(levels - glass))
    lowest, highest = _DARK_BOUNDS if dark else _BRIGHT_BOUNDS
    if not dark:
        distance = np.minimum(distance, _over_channels(np.maximum, np.abs(levels - unscanned)) / _UNSCANNED * lowest)
    content = distance > min(max(_otsu(distance), lowest), highest)
    return ~_dilate(~_dilate(content, 2), 1)


def glass_colour(overview: np.ndarray, background: Sequence[int]) -> tuple[int, ...] | None:
    """The colour of empty glass in an overview, in its own dtype's range, or None if it shows none.

    Arguments as of `tissue_mask`. A good `background_hint` for `is_blank`.
    """
    levels, unscanned, dark = _as_levels(overview, background)
    glass = _glass_levels(levels, unscanned, dark)
    if glass is None:
        return None
    scale = np.iinfo(overview.dtype).max / 255 if not dark or overview.dtype == np.uint8 else _dark_unit(overview)
    return tuple(int(v) for v in np.rint(glass * scale))


def is_blank(pixels: np.ndarray, background_hint: Sequence[int] | None = None) -> tuple[int, ...] | None:
    """The colour of a piece of a slide if it is plain glass, else None.

    It is glass if no pixel, and no mean over half-overlapping boxes of 4, 8 and 16 pixels, is further from the mean of
    the piece than the noise of a scanner and the odd speck explain. A nucleus of 10 pixels that differs by 9 levels is
    seen, and so is a fibre two pixels wide that differs by 12; a speck of 2x2 pixels is given up below 40 levels.

    Args:
        pixels: (h, w, C) uint8 or uint16. In 16 bits, four counts stand for a level: such cameras rarely use the range.
        background_hint: colour of the slide's glass (`glass_colour`). With it, a piece of any other plain colour is
            not blank.

    Returns:
        The mean colour, one value a channel, rounded; or None.
    """
    level = 1 if pixels.dtype == np.uint8 else _LEVEL_16_BIT
    mean = _of_channels(np.add, pixels, np.int64) / (pixels.shape[0] * pixels.shape[1])
    extremes = np.maximum(_of_channels(np.maximum, pixels) - mean, mean - _of_channels(np.minimum, pixels))
    if extremes.max() > _BOX_LIMITS[1] * level:
        return None
    if background_hint is not None and np.abs(mean - np.asarray(background_hint)).max() > _HINT_DISTANCE * level:
        return None
    integral = np.zeros((pixels.shape[0] + 1, pixels.shape[1] + 1, pixels.shape[2]), np.int64)
    integral[1:, 1:] = pixels.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    for side in (16, 8, 4):
        deviation = np.abs(_box_means(integral, side) - mean).max(axis=1)
        if deviation.max() > _BOX_LIMITS[side] * level:
            return None
    # The last of them are the boxes of 4x4.
    if np.count_nonzero(deviation > _THIN * level) > _THIN_SHARE * deviation.size:
        return None
    return tuple(int(v) for v in np.rint(mean))


def _of_channels(ufunc: np.ufunc, pixels: np.ndarray, dtype: type | None = None) -> np.ndarray:
    """Pixels (h, w, C) to (C,): rows onto one row first, which is done in vectors, and not three values at a time."""
    row = ufunc.reduce(pixels.reshape(len(pixels), -1), axis=0, dtype=dtype)
    return ufunc.reduce(row.reshape(-1, pixels.shape[2]), axis=0, dtype=dtype)


def _box_means(integral: np.ndarray, side: int) -> np.ndarray:
    """Means over boxes of `side` pixels, half overlapping and up to the far borders: (boxes, C) float64."""
    h, w = integral.shape[0] - 1, integral.shape[1] - 1
    box_h, box_w = min(side, h), min(side, w)
    tops = np.append(np.arange(0, h - box_h, side // 2), h - box_h)
    lefts = np.append(np.arange(0, w - box_w, side // 2), w - box_w)
    lower, upper = integral[tops + box_h], integral[tops]
    sums = lower[:, lefts + box_w] - lower[:, lefts] - upper[:, lefts + box_w] + upper[:, lefts]
    return (sums / (box_h * box_w)).reshape(-1, integral.shape[2])


def _as_levels(overview: np.ndarray, background: Sequence[int]) -> tuple[np.ndarray, np.ndarray, bool]:
    """The overview and the background in levels of 255, (h, w, C) and (C,) float32, and whether it is dark field."""
    pixels = overview[..., None] if overview.ndim == 2 else overview
    unit = np.iinfo(pixels.dtype).max / 255
    dark = bool(np.median(_over_channels(np.maximum, pixels)) < _DARK_FIELD * unit)
    if dark and pixels.dtype == np.uint16:
        unit = _dark_unit(pixels)
    return (pixels / unit).astype(np.float32), (np.asarray(background) / unit).astype(np.float32), dark


def _over_channels(ufunc: np.ufunc, pixels: np.ndarray) -> np.ndarray:
    """(h, w, C) to (h, w): a channel at a time, which is done in vectors."""
    return reduce(ufunc, np.moveaxis(pixels, 2, 0))


def _dark_unit(overview: np.ndarray) -> float:
    """Counts of one level: cameras of 10 to 14 bits fill but the lower part of 16."""
    return max(float(np.percentile(overview, 99.9)), 256.0) / 255


def _glass_levels(levels: np.ndarray, unscanned: np.ndarray, dark: bool) -> np.ndarray | None:
    """Colour of the commonest flat empty area, (C,) float32; None if there is hardly any."""
    darkest, brightest = (_over_channels(ufunc, levels) for ufunc in (np.minimum, np.maximum))
    empty = brightest < _DARK_FIELD if dark else (darkest >= _LIGHT) & (brightest - darkest <= _NEUTRAL)
    mean = _over_channels(np.add, levels) / levels.shape[2]
    empty &= _range3(mean) <= _FLAT
    if empty.mean() < _GLASS_SHARE:
        return None
    scanned = empty & (_over_channels(np.maximum, np.abs(levels - unscanned)) > _UNSCANNED)
    if not dark and scanned.mean() >= _GLASS_SHARE:
        empty = scanned  # real glass rather than the fill around it
    brightness = np.rint(mean).astype(np.intp)
    histogram = np.convolve(np.bincount(brightness[empty], minlength=258), (1, 1, 1), "same")
    peak = int(histogram.argmax())
    return np.median(levels[empty & (np.abs(brightness - peak) <= 2)], axis=0)


def _range3(values: np.ndarray) -> np.ndarray:
    """Maximum minus minimum over each pixel's 3x3 neighbours."""
    h, w = values.shape
    padded = np.pad(values, 1, mode="edge")
    shifted = [padded[i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.maximum.reduce(shifted) - np.minimum.reduce(shifted)


def _otsu(values: np.ndarray) -> float:
    """The threshold that separates `values` (levels, 0 to 255) into two classes of least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256, range=(0, 256))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    mean_below = sums / np.maximum(below, 1)
    mean_above = (sums[-1] - sums) / np.maximum(above, 1)
    return float(edges[1:][np.argmax(below * above * (mean_below - mean_above) ** 2)])


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Each True cell grows to a square of 2 radius + 1; the border of the map stays where it is."""
    h, w = mask.shape
    padded = np.pad(mask, radius)
    rows = np.logical_or.reduce([padded[i : i + h] for i in range(2 * radius + 1)])
    return np.logical_or.reduce([rows[:, j : j + w] for j in range(2 * radius + 1)])
