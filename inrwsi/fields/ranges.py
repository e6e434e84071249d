"""Ranges of channels: what a field's samples are scaled by where a slide has 16 bits.

A camera fills 12 or 14 bits of 16, and one fluorescent dye shines a hundred times as bright as another. So a fit sees
each channel in *levels*, of which the channel's own range is 0..255 whatever its samples are: steps, losses and their
constants are then those of 8 bits, and a dim channel counts as much as a bright one. Samples of 8 bits are levels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Range = tuple[int, int]
Ranges = tuple[Range, ...]

LEVEL_MAX = 255
ZERO_LEVEL = 128  # that a linear last layer gives for 0
DEEP_MAX = 2**16 - 1
BYTES: Range = (0, LEVEL_MAX)


class Extremes:
    """The smallest and the largest sample of each channel, over pieces of a slide of 16 bits."""

    def __init__(self, channels: int) -> None:
        self._low, self._high = np.full(channels, DEEP_MAX, np.int64), np.zeros(channels, np.int64)

    def add(self, pixels: np.ndarray) -> None:
        """Count a piece, (h, w, channels) uint16."""
        self._low = np.minimum(self._low, pixels.min(axis=(0, 1)))
        self._high = np.maximum(self._high, pixels.max(axis=(0, 1)))

    def ranges(self) -> Ranges:
        """From the smallest to the largest, at least 255 apart: levels are never finer than samples.

        All 16 bits where nothing was counted.
        """
        if (self._low > self._high).any():
            return ((0, DEEP_MAX),) * len(self._low)
        low = np.minimum(self._low, DEEP_MAX - LEVEL_MAX)
        high = np.maximum(self._high, low + LEVEL_MAX)
        return tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))


def zero_sample(channel: Range) -> int:
    """The sample that is nearest to level 128."""
    low, high = channel
    return low + (ZERO_LEVEL * (high - low) + LEVEL_MAX // 2) // LEVEL_MAX


def to_levels(pixels: np.ndarray, ranges: Ranges) -> np.ndarray:
    """(h, w, channels) fp32 levels of samples."""
    low, high = np.array(ranges, np.float32).T
    levels: np.ndarray = (pixels - low) * (LEVEL_MAX / (high - low))
    return levels


@lru_cache(maxsize=64)
def bounds(ranges: Ranges, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Low, high and `zero_sample` of the channels, each (channels, 1, 1) fp32, which holds such samples exactly."""
    rows = [[low, high, zero_sample((low, high))] for low, high in ranges]
    low, high, zero = torch.tensor(rows, dtype=torch.float32, device=device).T[..., None, None]
    return low, high, zero


def squared_error(y: Tensor, target: Tensor, ranges: Ranges) -> float:
    """Mean squared error of (B, channels, h, w) levels, in 255ths of what the samples' bits can hold.

    For progress in dB, of the peak 255 or 65535: a channel that fills little of its bits has little error to show.
    """
    difference = y - target
    if any(channel != BYTES for channel in ranges):
        low, high, _ = bounds(ranges, str(y.device))
        difference = difference * ((high - low) / DEEP_MAX)
    return float(difference.square().mean())
