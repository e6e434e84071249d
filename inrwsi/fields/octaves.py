"""The default model in floats: the networks of an octave, and the analysis that feeds them.

Octave k holds the slide at 1/2^k in three colour components (the slide's own, orthonormal or with colour drawn in
beside luma, in grey levels about the mean). Its coefficients lie on the sites of the octave below, nine a site: three
components times three bands of the 9/7 wavelet, in units of the octave's step. All of a network's inputs and outputs
are numbers that the decoder can hold as small integers.

This is the form that is trained and fitted; `octaves_integer` is the one that files are coded with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inrwsi.coding.sites import (
    ACTIVITY_BASE,
    ACTIVITY_FLOORS,
    ACTIVITY_UNIT,
    STEP_FACTOR_UNIT,
    STEP_FACTORS,
    TOLD_STEP,
)
from inrwsi.fields.octaves_model import OWN_STEP_UNIT, STEP_UNIT, USUAL_LEAST, own_step_of
from inrwsi.fields.wavelet import forward97, inverse97

COMPONENTS, BANDS = 3, 9
LUMA, CHROMA = slice(0, 3), slice(3, 9)
Sites = Callable[[Tensor], Tensor]
MIN_STEP = USUAL_LEAST / STEP_UNIT  # of an octave where nothing else is said, in grey levels
GREY_SCALE = 1 / 64  # network inputs are near 1 in size
HIGH_PASS_SCALE = 1 / 4
COEFFICIENT_MAX = 63.75
HIGH_PASS_MAX = 31.875
MEAN_MAX = 127.0
SCALE_FLOOR = 0.05
LOG_SCALE_MAX = 4.0
RATE_WEIGHT = 0.045  # squared error a bit, in squared steps


@dataclass(frozen=True)
class OctavesConfig:
    """Sizes of the networks. The `own_nets` finest octaves have networks of their own, the coarser ones share one."""

    width: int = 32
    head_width: int = 32
    features: int = 8
    squeeze: int = 10
    own_nets: int = 3
    analysis_width: int = 48

    @property
    def nets(self) -> int:
        return self.own_nets + 1

    def net_of(self, octave: int) -> int:
        return min(octave, self.own_nets)


def octave_step(step: float | Tensor, octave: int, own_step: int = OWN_STEP_UNIT, least: float = MIN_STEP) -> Tensor:
    """The step of an octave, in grey levels of its own pixels: equal error at level 0 from every octave.

    `own_step`: so many sixteenths of that; but not less than `least`.
    """
    return (torch.as_tensor(step, dtype=torch.float32) * (own_step / OWN_STEP_UNIT) * 0.5**octave).clamp_min(least)


def told_step(step: Tensor) -> Tensor:
    """What networks see of a step in grey levels, and its square, as channels: (B, 1, h, w) to (B, 2, h, w)."""
    log = (torch.log2(step.clamp_min(TOLD_STEP / STEP_UNIT)) - 3.0) / 4.0
    return torch.cat((log, log * log), 1)


def at_pixels(step: Tensor) -> Tensor:
    """The steps of sites at their four pixels each: (B, 1, h, w) to (B, 1, 2 h, 2 w); one for all stays as it is."""
    return step if step.shape[-2:] == (1, 1) else step.repeat_interleave(2, -1).repeat_interleave(2, -2)


def active_steps(step: Tensor, below: Tensor, active: int, least: float = MIN_STEP) -> Tensor:
    """Steps (B, 1, h, w) that follow the activity of the octave below (B, 3, h, w): but for borders, those of files.

    `active`: the model's.
    """
    y = below[:, :1].detach()
    mean = mean3(mean3(y))
    found = 2 * (mean3(mean3(y * y)) - mean * mean).clamp_min(0) + ACTIVITY_BASE / ACTIVITY_UNIT
    floors = torch.tensor(ACTIVITY_FLOORS, dtype=torch.float64, device=y.device) / ACTIVITY_UNIT
    factors = torch.tensor(STEP_FACTORS[active], dtype=torch.float32, device=y.device) / STEP_FACTOR_UNIT
    index = torch.bucketize(found, floors.float(), right=True)
    return (step * factors[index]).clamp_min(least)


def replicate(x: Tensor) -> Tensor:
    """One more row and column on every side, as the outermost ones are: (B, C, H, W) -> (B, C, H + 2, W + 2)."""
    x = torch.cat((x[..., :1], x, x[..., -1:]), -1)
    return torch.cat((x[..., :1, :], x, x[..., -1:, :]), -2)


class Conv3(nn.Conv2d):
    """3 x 3 over replicated borders. Spelt with slices, which the compiler of the training step can fuse."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(replicate(x))


def conv(inputs: int, outputs: int, kernel: int = 1) -> nn.Conv2d:
    return Conv3(inputs, outputs) if kernel == 3 else nn.Conv2d(inputs, outputs, kernel)


def mean3(x: Tensor) -> Tensor:
    """Mean of the 3 x 3 about each pixel."""
    x = replicate(x)
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with nothing in it: what it adds to starts as what it is."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def black(x: Tensor) -> Tensor:
    """The sites whose row and column are both even or both odd: (B, C, H, W) -> (2 B, C, H/2, W/2), H and W even."""
    return torch.cat((x[:, :, 0::2, 0::2], x[:, :, 1::2, 1::2]))


def white(x: Tensor) -> Tensor:
    """The other sites, likewise."""
    return torch.cat((x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2]))


def merge(at_black: Tensor, at_white: Tensor) -> Tensor:
    """The inverse of `black` and `white`."""
    b, c, h, w = at_black.shape
    even_even, odd_odd = at_black.chunk(2)
    even_odd, odd_even = at_white.chunk(2)
    top = torch.stack((even_even, even_odd), -1).flatten(-2)
    bottom = torch.stack((odd_even, odd_odd), -1).flatten(-2)
    return torch.stack((top, bottom), -2).reshape(b // 2, c, 2 * h, 2 * w)


def only_black(x: Tensor) -> Tensor:
    """Zero at the white sites."""
    mask = torch.zeros(2, 2, dtype=x.dtype, device=x.device)
    mask[0, 0] = mask[1, 1] = 1
    return x * mask.repeat(x.shape[-2] // 2, x.shape[-1] // 2)


class Head(nn.Module):
    """One pass: from the octave's features and what earlier passes decoded to mean and scale, at its own sites."""

    def __init__(self, config: OctavesConfig, bands: int, neighbours: int, kernel: int) -> None:
        super().__init__()
        width = config.head_width
        self.features = conv(config.width, width)
        self.neighbours = nn.Conv2d(neighbours, width, kernel, padding=kernel // 2, bias=False) if neighbours else None
        self.hidden = conv(width, width)
        self.out = zeroed(conv(width, 2 * bands))
        self.bands = bands

    def forward(self, features: Tensor, seen: Tensor | None, sites: Sites) -> tuple[Tensor, Tensor]:
        """(mean, scale) in steps, at `sites`; `features` are taken there already, `seen` is everywhere."""
        x = self.features(features)
        if self.neighbours is not None and seen is not None:
            x = x + sites(self.neighbours(seen))
        x = F.relu(self.hidden(F.relu(x)))
        mean, log_scale = self.out(x).float().chunk(2, 1)
        scale = SCALE_FLOOR + torch.exp(log_scale.clamp(max=LOG_SCALE_MAX))
        return mean.clamp(-MEAN_MAX, MEAN_MAX), scale


class OctaveNet(nn.Module):
    """Entropy and synthesis networks of an octave, which share the trunk."""

    def __init__(self, config: OctavesConfig) -> None:
        super().__init__()
        self.config = config
        inputs = 2 * COMPONENTS + config.features + 2
        self.trunk1 = conv(inputs, config.width, 3)
        self.trunk2 = conv(config.width, config.width, 3)
        self.heads = nn.ModuleList(
            (Head(config, 3, 0, 0), Head(config, 3, 3, 5), Head(config, 6, 3, 3), Head(config, 6, 9, 3))
        )
        self.squeeze = conv(config.width, config.squeeze)
        self.synthesis1 = conv(config.squeeze + BANDS, config.width, 3)
        self.synthesis2 = conv(config.width, config.width, 3)
        self.pixels = zeroed(conv(config.width, 4 * COMPONENTS))
        self.up = conv(config.width, 4 * config.features)

    def trunk(self, below: Tensor, features: Tensor, step: Tensor) -> Tensor:
        """(B, width, h, w) from the decoded octave below (B, 3, h, w), what it handed up, and its step (B, 1, 1, 1)."""
        high = (below - mean3(below)) / step
        high = high.clamp(-HIGH_PASS_MAX, HIGH_PASS_MAX)
        logs = told_step(step).expand(-1, -1, *below.shape[2:])
        x = torch.cat((below * GREY_SCALE, high * HIGH_PASS_SCALE, features, logs), 1)
        return F.relu(self.trunk2(F.relu(self.trunk1(x))))

    def synthesise(self, trunk: Tensor, below: Tensor, coefficients: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 2 h, 2 w) of this octave, and the features (B, F, 2 h, 2 w) that it hands up."""
        seen = coefficients.clamp(-COEFFICIENT_MAX, COEFFICIENT_MAX) * 0.25
        x = torch.cat((F.relu(self.squeeze(trunk)), seen.to(trunk.dtype)), 1)
        x = F.relu(self.synthesis2(F.relu(self.synthesis1(x))))
        base = inverse97(below, coefficients * step)
        out = base + F.pixel_shuffle(self.pixels(x).float(), 2) * at_pixels(step)
        return out, F.relu(F.pixel_shuffle(self.up(x), 2)).float()


class Analysis(nn.Module):
    """The encoder's transform: the 9/7 wavelet plus a residual that knows what the decoder has. Not stored in files."""

    def __init__(self, config: OctavesConfig) -> None:
        super().__init__()
        width = config.analysis_width
        self.log_factor = nn.Parameter(torch.zeros(BANDS))
        self.layer1 = conv(BANDS + 3 * COMPONENTS + 2, width, 3)
        self.layer2 = conv(width, width, 3)
        self.layer3 = zeroed(conv(width, BANDS))

    def forward(self, true_below: Tensor, details: Tensor, below: Tensor, step: Tensor) -> Tensor:
        """Coefficients in steps (B, 9, h, w), before quantisation."""
        units = details / step
        high = (below - mean3(below)) / step
        logs = told_step(step).expand(-1, -1, *below.shape[2:])
        missing = (true_below - below) / step
        seen = (units.clamp(-64, 64) * 0.25, high.clamp(-64, 64) * 0.25, missing.clamp(-8, 8), below * GREY_SCALE, logs)
        x = F.relu(self.layer2(F.relu(self.layer1(torch.cat(seen, 1)))))
        return units + self.layer3(x).float()


def logistic_bits(y: Tensor, scale: Tensor) -> Tensor:
    """Bits of symbol y under a logistic of that scale, integrated over the unit interval about y."""
    # By symmetry at -|y|, where the difference of the two distribution functions keeps its precision.
    away = -y.abs()
    upper, lower = (away + 0.5) / scale, (away - 0.5) / scale
    # log(S(u) - S(l)) = log S(u) + log S(-l) + log(1 - exp(l - u))
    gap = torch.log1p(-torch.exp(-1.0 / scale))
    return (F.softplus(-upper) + F.softplus(lower) - gap) / math.log(2)


def choose(x: Tensor, scale: Tensor) -> Tensor:
    """The integer next to x that costs least: squared error in steps and bits, weighed as in training."""
    near = x.abs().floor()
    # What one more costs: between 0 and 1 by the distribution, further out by the slope of its logarithm.
    half = 0.5 / scale
    first = half + torch.log1p(torch.exp(-3 * half)) - torch.log1p(torch.exp(-half))
    more = torch.where(near > 0, torch.tanh((near + 0.5) * half) / scale, first)
    least = 0.5 + 1.5 * RATE_WEIGHT / math.log(2) * more
    return torch.where(x.abs() - near > least, near + 1, near) * x.sign()


@dataclass
class OctaveOut:
    """What coding an octave gives. `bits` (B,) is an estimate for training: never a size."""

    pixels: Tensor
    features: Tensor
    bits: Tensor
    coefficients: Tensor


def _noise(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform from -1/2 to 1/2, of the shape of x; from the global generator where there is none."""
    return torch.rand(x.shape, dtype=x.dtype, device=x.device, generator=generator) - 0.5


class Octaves(nn.Module):
    """All the networks: what a prior holds.

    Attributes:
        active, own_steps: the model's.
        least_step: what no octave's step is less than, in grey levels.
    """

    def __init__(self, config: OctavesConfig) -> None:
        super().__init__()
        self.config = config
        self.active = 0
        self.own_steps: tuple[int, ...] | None = None
        self.least_step = MIN_STEP
        self.nets = nn.ModuleList(OctaveNet(config) for _ in range(config.nets))
        self.analyses = nn.ModuleList(Analysis(config) for _ in range(config.nets))

    def step_at(self, step: Tensor, octave: int, below: Tensor) -> Tensor:
        """An octave's step in grey levels, (B, 1, 1, 1), or of each site, (B, 1, h, w), with `below` decoded."""
        own = octave_step(step, octave, own_step_of(self.own_steps, octave), self.least_step)
        return active_steps(own, below, self.active, self.least_step) if self.active else own

    def code(
        self,
        octave: int,
        target: tuple[Tensor, Tensor],
        below: Tensor,
        features: Tensor,
        step: Tensor,
        hard: bool,
        noise: torch.Generator | None = None,
        spread: float | Tensor = 1.0,
    ) -> OctaveOut:
        """Code one octave: `target` is what `forward97` gave of its pixels. With `hard` the rate is of the symbols."""
        net, analysis = self.nets[self.config.net_of(octave)], self.analyses[self.config.net_of(octave)]
        own = self.step_at(step, octave, below)
        units = analysis(target[0], target[1], below, own)
        factor = torch.exp(analysis.log_factor).view(1, BANDS, 1, 1)
        units = units * factor
        trunk = net.trunk(below, features, own)
        coded, bits = self._passes(net, trunk, units, hard, noise, spread)
        coded = coded / factor
        pixels, up = net.synthesise(trunk, below, coded, own)
        return OctaveOut(pixels, up, bits, coded)

    def _passes(
        self,
        net: OctaveNet,
        trunk: Tensor,
        units: Tensor,
        hard: bool,
        noise: torch.Generator | None,
        spread: float | Tensor,
    ) -> tuple[Tensor, Tensor]:
        at: dict[Sites, Tensor] = {black: black(trunk), white: white(trunk)}
        luma, chroma = units[:, LUMA], units[:, CHROMA]
        heads = net.heads
        bits = []
        if isinstance(spread, Tensor):
            spread = torch.cat((spread, spread))  # as `black` and `white` have each picture

        def quantise(x: Tensor, head: nn.Module, sites: Sites, seen: Tensor | None) -> Tensor:
            mean, scale = head(at[sites], seen, sites)
            x, scale = (sites(x) - mean) / spread, scale / spread
            with torch.no_grad():
                jump = choose(x, scale) - x
            y = x + jump
            cost = logistic_bits(y if hard else x + _noise(x, noise), scale)
            pair = cost.sum((1, 2, 3)).view(2, -1)
            bits.append(pair[0] + pair[1])
            return y * spread + mean

        def seen_of(x: Tensor) -> Tensor:
            return x.clamp(-COEFFICIENT_MAX, COEFFICIENT_MAX) * 0.25

        def alone(x: Tensor) -> Tensor:
            return merge(x, torch.zeros_like(x))

        luma_black = quantise(luma, heads[0], black, None)
        luma_white = quantise(luma, heads[1], white, seen_of(alone(luma_black)))
        lumas = merge(luma_black, luma_white)
        chroma_black = quantise(chroma, heads[2], black, seen_of(lumas))
        chroma_seen = torch.cat((seen_of(lumas), seen_of(alone(chroma_black))), 1)
        chroma_white = quantise(chroma, heads[3], white, chroma_seen)
        return torch.cat((lumas, merge(chroma_black, chroma_white)), 1), torch.stack(bits).sum(0)

    def forward(
        self,
        x: Tensor,
        step: Tensor,
        octaves: int,
        hard: bool,
        noise: torch.Generator | None = None,
        spread: float | Tensor = 1.0,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Code a picture of `octaves` octaves.

        Args:
            x: (B, 3, H, W) in colour components, grey levels; sides divisible by 2^octaves.
            step: (B, 1, 1, 1) in grey levels.
            hard: the rate is that of the symbols, not of noise about them.
            noise: what the noise is drawn from.
            spread: how far apart the values are that coefficients are rounded to, in units; of each
                picture where it is (B, 1, 1, 1).

        Returns:
            For each octave from the finest: decoded pixels, the true ones, and bits (B,).
        """
        truth, details = [x], []
        for _ in range(octaves):
            low, high = forward97(truth[-1])
            truth.append(low)
            details.append(high)
        below = truth[-1]
        below = below + _noise(below, noise) * octave_step(
            step, octaves, own_step_of(self.own_steps, octaves), self.least_step
        )
        features = x.new_zeros(x.shape[0], self.config.features, *below.shape[2:])
        decoded, bits = [], []
        for octave in reversed(range(octaves)):
            out = self.code(octave, (truth[octave + 1], details[octave]), below, features, step, hard, noise, spread)
            below, features = out.pixels, out.features
            decoded.append(out.pixels)
            bits.append(out.bits)
        return decoded[::-1], truth[:-1], bits[::-1]


def mac_per_px(config: OctavesConfig, *, active: bool = True) -> float:
    """Multiplications of the decoder's networks a level-0 pixel, all octaves counted.

    `active`: steps follow activity, as with every `--tune` but `psnr`. Where they do not, the step's logarithm and its
    square are the same everywhere, and go into a bias.
    """
    w, h, f = config.width, config.head_width, config.features
    trunk = 9 * (2 * COMPONENTS + f + 2 * active) * w + 9 * w * w
    heads = 0.0
    for bands, seen in ((3, 0), (3, 12 * 3), (6, 9 * 3), (6, 9 * 3 + 4 * 6)):
        heads += 0.5 * (w * h + seen * h + h * h + h * 2 * bands)
    synthesis = w * config.squeeze + 9 * (config.squeeze + BANDS) * w + 9 * w * w + w * 4 * COMPONENTS
    site = trunk + heads + synthesis
    handed_up = w * 4 * f
    return site / 4 * 4 / 3 + handed_up / 4 / 3
