"""What follows the sum of a layer: on floats, on whole numbers, and on whole numbers with a gradient for the fit.

Whole activations lie within +-127, ReLU's within 0..255; a sine or cosine is looked up at 4096 steps a turn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from inrwsi.fields.ranges import BYTES, LEVEL_MAX, ZERO_LEVEL, Range, Ranges, bounds

ACTIVATION_MAX = 127
RELU_MAX = 255
SINE_BITS = 12
SINE_STEPS = 1 << SINE_BITS
RADIANS_A_STEP = 2 * math.pi / SINE_STEPS
STEPS_A_RADIAN = SINE_STEPS / (2 * math.pi)
SAMPLES_A_UNIT = LEVEL_MAX / 2
SHARE_BITS = 24


class Activation(ABC):
    """One kind. `exact` and `samples` are what a file decodes to; `soft` and `soft_samples` what the fit sees of it.

    Attributes:
        name: as in SPEC.md.
        top: largest absolute value of a whole activation.
        steps: whole numbers before the activation that a real unit of the sum becomes; None where they are chosen
            from the range that the fit measures.
        period: whole numbers before it that change nothing when they are added, if there are some.
        sample_zero: the level that a real 0 of the network's last layer gives; a real unit is `SAMPLES_A_UNIT`.
    """

    name: str
    top: int = ACTIVATION_MAX
    steps: float | None = None
    period: int | None = None
    sample_zero: float = ZERO_LEVEL

    @abstractmethod
    def real(self, x: Tensor) -> Tensor:
        """On floats, as the paper has it; `x` is already multiplied by omega."""

    @abstractmethod
    def exact(self, v: Tensor) -> Tensor:
        """Whole numbers to whole activations."""

    @abstractmethod
    def soft(self, v: Tensor) -> Tensor:
        """`exact` of the rounded `v`, with the gradient of what it rounds."""

    def last_steps(self, ranges: Ranges) -> list[float]:
        """`steps` of the last layer, which gives samples, a channel: a real unit is half the range."""
        return [(high - low) / 2 for low, high in ranges]

    def samples(self, v: Tensor, ranges: Ranges) -> Tensor:
        """Of the last layer: whole numbers (B, channels, h, w) to samples, each within its channel's range."""
        low, high, zero = bounds(ranges, str(v.device))
        return torch.minimum(torch.maximum(v + zero, low), high)

    def soft_samples(self, v: Tensor, ranges: Ranges) -> Tensor:
        """`samples` as levels, not rounded: 0..255 is a channel's range."""
        low, high, zero = bounds(ranges, str(v.device))
        return (v + (zero - low)) * (LEVEL_MAX / (high - low))


class Relu(Activation):
    """max(x, 0)."""

    name, top = "relu", RELU_MAX

    def real(self, x: Tensor) -> Tensor:
        return torch.relu(x)

    def exact(self, v: Tensor) -> Tensor:
        return v.clamp(0, RELU_MAX)

    def soft(self, v: Tensor) -> Tensor:
        return round_through(v.clamp(0, RELU_MAX))


class Linear(Activation):
    """x itself."""

    name = "linear"

    def real(self, x: Tensor) -> Tensor:
        return x

    def exact(self, v: Tensor) -> Tensor:
        return v.clamp(-ACTIVATION_MAX, ACTIVATION_MAX)

    def soft(self, v: Tensor) -> Tensor:
        return round_through(v.clamp(-ACTIVATION_MAX, ACTIVATION_MAX))


class Sine(Activation):
    """sin(x)."""

    name, steps, period = "sine", STEPS_A_RADIAN, SINE_STEPS
    sample_zero = SAMPLES_A_UNIT

    def real(self, x: Tensor) -> Tensor:
        return torch.sin(x)

    def exact(self, v: Tensor) -> Tensor:
        return look_up(sine_table(str(v.device)), v)

    def soft(self, v: Tensor) -> Tensor:
        return _RoundedSine.apply(v)

    def last_steps(self, ranges: Ranges) -> list[float]:
        return [STEPS_A_RADIAN] * len(ranges)

    def samples(self, v: Tensor, ranges: Ranges) -> Tensor:
        tables = [sample_table(str(v.device), channel) for channel in ranges]
        return torch.stack([look_up(table, v[:, c]) for c, table in enumerate(tables)], dim=1)

    def soft_samples(self, v: Tensor, ranges: Ranges) -> Tensor:
        return (torch.sin(v * RADIANS_A_STEP) + 1) * SAMPLES_A_UNIT


class Cosine(Sine):
    """cos(x), which is a quarter of a turn ahead."""

    name = "cosine"

    def real(self, x: Tensor) -> Tensor:
        return torch.cos(x)

    def exact(self, v: Tensor) -> Tensor:
        return super().exact(v + SINE_STEPS // 4)

    def soft(self, v: Tensor) -> Tensor:
        return super().soft(v + SINE_STEPS // 4)

    def samples(self, v: Tensor, ranges: Ranges) -> Tensor:
        return super().samples(v + SINE_STEPS // 4, ranges)

    def soft_samples(self, v: Tensor, ranges: Ranges) -> Tensor:
        return super().soft_samples(v + SINE_STEPS // 4, ranges)


RELU, LINEAR, SINE, COSINE = Relu(), Linear(), Sine(), Cosine()


class _RoundedSine(torch.autograd.Function):
    """round(127 sin(phase)), with the gradient of 127 sin(phase): the maps are passed over once each way."""

    @staticmethod
    def forward(ctx: Any, phase: Tensor) -> Tensor:
        ctx.save_for_backward(phase)
        return (phase * RADIANS_A_STEP).sin_().mul_(ACTIVATION_MAX).round_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (phase,) = ctx.saved_tensors
        return (phase * RADIANS_A_STEP).cos_().mul_(ACTIVATION_MAX * RADIANS_A_STEP).mul_(grads[0])


class _RoundThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def round_through(x: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity (straight-through estimator, Bengio et al. 2013, section 2.3)."""
    return _RoundThrough.apply(x)


def look_up(table: Tensor, v: Tensor) -> Tensor:
    """The table's value at v modulo `SINE_STEPS`, for whole numbers in floats or int64."""
    if v.is_floating_point():
        # Beyond 2^30 steps fp32 has no fraction of a turn left; a hostile file's multiplier must still index the table.
        v = torch.nan_to_num(v, nan=0.0).clamp_(-(2.0**30), 2.0**30)
    index = v.to(torch.int32) & (SINE_STEPS - 1)
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


@lru_cache(maxsize=8)
def sine_table(device: str) -> Tensor:
    """round(127 sin(2 pi i / 4096)). SPEC.md lists its checksum: the libm of no machine comes near a tie."""
    return torch.tensor(
        [round(ACTIVATION_MAX * math.sin(2 * math.pi * i / SINE_STEPS)) for i in range(SINE_STEPS)],
        dtype=torch.float32,
        device=device,
    )


@lru_cache(maxsize=1)
def range_shares() -> tuple[int, ...]:
    """round(2^23 (1 + sin(2 pi i / 4096))): shares of a range, whole 2^-24ths. SPEC.md lists their checksum too."""
    half = 1 << (SHARE_BITS - 1)
    return tuple(math.floor(half * (1 + math.sin(2 * math.pi * i / SINE_STEPS)) + 0.5) for i in range(SINE_STEPS))


@lru_cache(maxsize=64)
def sample_table(device: str, channel: Range = BYTES) -> Tensor:
    """Samples of a channel's range for 4096 steps of a turn: low + (high - low) (1 + sin(2 pi i / 4096)) / 2, rounded.

    From `range_shares` on it is in integers.
    """
    low, high = channel
    half = 1 << (SHARE_BITS - 1)
    values = [low + ((share * (high - low) + half) >> SHARE_BITS) for share in range_shares()]
    return torch.tensor(values, dtype=torch.float32, device=device)
