"""The networks of model `octaves` as they will be coded with, but with gradients: training in the integers themselves.

`RoundedNet` has the parameters of `fields.octaves.OctaveNet` and computes what `fields.octaves_integer` does: weights,
biases, sums and activations are rounded and cut as they are there, in the units and shifts of a prior. Gradients go
straight through every rounding, and are zero where a value is cut off (Bengio, Leonard, Courville 2013, section 4;
Jacob et al. 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inrwsi.fields.octaves import (
    GREY_SCALE,
    SCALE_FLOOR,
    Head,
    OctaveNet,
    Octaves,
    OctavesConfig,
    Sites,
    at_pixels,
    inverse97,
    mean3,
    replicate,
    told_step,
)
from inrwsi.fields.octaves_integer import (
    FACTOR_UNIT,
    MEAN_MAX,
    NETS,
    PIXEL_OUT_MAX,
    SCALE_OFFSET,
    SCALES,
    layer_shapes,
)
from inrwsi.fields.octaves_prior import Prior
from inrwsi.fit.quantise import BIAS_MAX, LOG_SCALE_UNIT, LOG_UNIT, MEAN_UNIT, PIXEL_UNIT, Units, net_units

ACTIVATION_MAX, WEIGHT_MAX = 255.0, 127.0
HIGH_PASS_EIGHTHS, SEEN_QUARTERS = 8.0, 4.0  # of a step, and of a coefficient, that networks see


class _Straight(torch.autograd.Function):
    """The whole number next to x, the larger one of two, within limits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x >= low) & (x <= high))
        return (x + 0.5).floor_().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return inside * grads[0], None, None  # in the memory order of x, as the optimiser wants it


class _Rescale(torch.autograd.Function):
    """(sum + bias) * scale as a whole number within limits; bias and scale (C or B, C, 1, 1) float32."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, bias: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
        x = (total.float() + bias) * scale
        ctx.save_for_backward((x > low) & (x < high), scale)
        ctx.typed = total.dtype
        return x.round_().clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        inside, scale = ctx.saved_tensors
        grad = grads[0].float() * inside * scale
        of_bias = grad.sum((0, 2, 3))[None, :, None, None] if ctx.needs_input_grad[1] else None
        return grad.to(ctx.typed), of_bias, None, None, None


def whole(x: Tensor, limit: float) -> Tensor:
    """The whole number next to x, the larger of two, from -limit to limit."""
    return _Straight.apply(x, -limit, limit)


def exact_sum(x: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """A convolution of whole numbers, rounded to eight significant bits as the decoder's is."""
    dtype = torch.bfloat16 if torch.is_autocast_enabled(x.device.type) else torch.float32
    return F.conv2d(x.to(dtype), weight.to(dtype), padding=padding).to(torch.bfloat16)


class _Layers:
    """What the weights and biases of a net's layers are worth in integers, and the layers in those."""

    def __init__(self, net: Mapping[str, np.ndarray], units: Units, device: torch.device) -> None:
        def held(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(device)

        self._weight = {name: held(1 / worth_of(net, units, name)) for name in layer_shapes()}
        own = [name for name in layer_shapes() if not name.endswith("neighbours")]
        shifts = {name: net[f"{name}.shift"].astype(np.float64) for name in own}
        self._bias = {name: held(np.exp2(shifts[name]) / units[f"{name}>"]) for name in own}
        self._scale = {name: held(np.exp2(-shifts[name])).view(1, -1, 1, 1) for name in own}
        self.inverse = held(net["inverse_factor"] / FACTOR_UNIT)

    def weight(self, name: str, module: nn.Conv2d) -> Tensor:
        return whole(module.weight * self._weight[name], WEIGHT_MAX)

    def bias(self, name: str, module: nn.Conv2d) -> Tensor:
        if module.bias is None:
            raise ValueError(f"{name} has no bias")
        return whole(module.bias * self._bias[name], BIAS_MAX).view(1, -1, 1, 1)

    def sum(self, name: str, module: nn.Conv2d, x: Tensor) -> Tensor:
        """A convolution, rounded to eight significant bits as the decoder's is."""
        padding = module.kernel_size[0] // 2 if name.endswith("neighbours") else 0
        if module.kernel_size[0] == 3 and not padding:
            x = replicate(x)
        return exact_sum(x, self.weight(name, module), padding)

    def rescale(self, name: str, total: Tensor, bias: Tensor, low: float = 0.0, high: float = ACTIVATION_MAX) -> Tensor:
        return _Rescale.apply(total, bias, self._scale[name], low, high)

    def relu(self, name: str, module: nn.Conv2d, x: Tensor) -> Tensor:
        return self.rescale(name, self.sum(name, module, x), self.bias(name, module)).to(torch.bfloat16)


class _RoundedHead(Head):
    layers: _Layers
    name: str

    def forward(self, features: Tensor, seen: Tensor | None, sites: Sites) -> tuple[Tensor, Tensor]:
        layers, name = self.layers, self.name
        total = layers.sum(f"{name}.features", self.features, features)
        if self.neighbours is not None and seen is not None:
            # `seen` is a quarter of the coefficients, for the networks in floats.
            near = whole(seen * (4 * SEEN_QUARTERS), ACTIVATION_MAX)
            total = total.float() + sites(layers.sum(f"{name}.neighbours", self.neighbours, near)).float()
        x = layers.rescale(f"{name}.features", total, layers.bias(f"{name}.features", self.features))
        x = layers.relu(f"{name}.hidden", self.hidden, x.to(torch.bfloat16))
        out = layers.sum(f"{name}.out", self.out, x)
        out = layers.rescale(f"{name}.out", out, layers.bias(f"{name}.out", self.out), -MEAN_MAX, MEAN_MAX)
        mean, index = out.chunk(2, 1)
        log_scale = index.clamp(-SCALE_OFFSET, SCALES - 1 - SCALE_OFFSET) * LOG_SCALE_UNIT
        return mean * MEAN_UNIT, SCALE_FLOOR + torch.exp(log_scale)


class RoundedNet(OctaveNet):
    """An `OctaveNet` in the integers of `net`.

    Features are handed up as whole numbers. Everything else is as in `OctaveNet`.

    Args:
        config: of the networks.
        net: integer tensors; what is taken of them is their shifts and the analysis' factors.
        units: of its activations, as `quantise.net_units` has them.
        device: where to compute.
    """

    def __init__(
        self, config: OctavesConfig, net: Mapping[str, np.ndarray], units: Units, device: torch.device
    ) -> None:
        super().__init__(config)
        self._layers = _Layers(net, units, device)
        for number, head in enumerate(self.heads):
            head.__class__ = _RoundedHead
            head.layers, head.name = self._layers, f"heads.{number}"

    def trunk(self, below: Tensor, features: Tensor, step: Tensor) -> Tensor:
        """As `OctaveNet.trunk`; what comes back are whole numbers."""
        layers = self._layers
        grey = whole(below * (64 * GREY_SCALE), ACTIVATION_MAX)
        high = whole((below - mean3(below)) / step * HIGH_PASS_EIGHTHS, ACTIVATION_MAX)
        log = torch.round(told_step(step)[:, :1] / LOG_UNIT)
        logs = torch.cat((log, torch.floor(log * log * LOG_UNIT + 0.5)), 1)
        weight, bias = layers.weight("trunk1", self.trunk1), layers.bias("trunk1", self.trunk1)
        parts = [grey, high, features]
        if logs.shape[-2:] == (1, 1):  # the step is the same at every site: its logarithm belongs to the bias
            with torch.autocast(below.device.type, enabled=False):
                bias = bias + (weight[:, -2:].sum((2, 3)) @ logs[0].flatten(1)).view(1, -1, 1, 1)
            weight = weight[:, :-2]
        else:
            parts.append(logs.clamp(-ACTIVATION_MAX, ACTIVATION_MAX))
        total = exact_sum(replicate(torch.cat(parts, 1)), weight)
        x = layers.rescale("trunk1", total, bias)
        return layers.relu("trunk2", self.trunk2, x.to(torch.bfloat16))

    def synthesise(self, trunk: Tensor, below: Tensor, coefficients: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """As `OctaveNet.synthesise`."""
        layers = self._layers
        factors = layers.inverse.view(1, -1, 1, 1)
        seen = whole(coefficients / factors * SEEN_QUARTERS, ACTIVATION_MAX)
        x = torch.cat((layers.relu("squeeze", self.squeeze, trunk), seen.to(torch.bfloat16)), 1)
        x = layers.relu("synthesis2", self.synthesis2, layers.relu("synthesis1", self.synthesis1, x))
        out = layers.sum("pixels", self.pixels, x)
        out = layers.rescale("pixels", out, layers.bias("pixels", self.pixels), -PIXEL_OUT_MAX, PIXEL_OUT_MAX)
        pixels = inverse97(below, coefficients * step) + F.pixel_shuffle(out * PIXEL_UNIT, 2) * at_pixels(step)
        return pixels, F.pixel_shuffle(layers.relu("up", self.up, x), 2)


def rounded(model: Octaves, prior: Prior) -> Octaves:
    """The same model, with nets that compute in the integers of `prior`: in its units, shifts and factors.

    Crops are to be given one at a time: the step is taken to be the same for all of a batch.
    """
    device = next(model.parameters()).device
    for n in range(NETS):
        net = RoundedNet(model.config, prior.nets[n], net_units(prior.units, n), device)
        net.load_state_dict(model.nets[n].state_dict())
        model.nets[n] = net
    return model.to(device, memory_format=torch.channels_last)


def rounded_of(prior: Prior, device: torch.device) -> Octaves:
    """A prior's own networks, as they code."""
    return rounded(floats_of(prior).to(device), prior)


def floats_of(prior: Prior) -> Octaves:
    """The prior's networks in floats, as near as its integers are to what was trained."""
    model = Octaves(OctavesConfig())
    for n in range(NETS):
        model.analyses[n].load_state_dict(
            {k: torch.from_numpy(v.astype(np.float32)) for k, v in prior.analysis[n].items()}
        )
        model.nets[n].load_state_dict(_real_state(prior.nets[n], net_units(prior.units, n)))
    return model


def _real_state(net: Mapping[str, np.ndarray], units: Units) -> dict[str, Tensor]:
    state = {}
    for name in layer_shapes():
        weight = net[f"{name}.weight"] * worth_of(net, units, name)
        state[f"{name}.weight"] = torch.from_numpy(weight.astype(np.float32))
        if not name.endswith("neighbours"):
            gain = np.exp2(-net[f"{name}.shift"].astype(np.float64)) * units[f"{name}>"]
            state[f"{name}.bias"] = torch.from_numpy((net[f"{name}.bias"] * gain).astype(np.float32))
    return state


def worth_of(net: Mapping[str, np.ndarray], units: Units, name: str) -> np.ndarray:
    """What one integer of a layer's weights is worth in floats: (out, in, 1, 1) float64."""
    gain = np.exp2(-net[f"{name.replace('neighbours', 'features')}.shift"].astype(np.float64)) * units[f"{name}>"]
    worth = gain[:, None, None, None] / units[f"{name}<"][None, :, None, None]
    if name == "synthesis1":  # in the integer net it takes coefficients in factors of the step
        worth[:, -9:] *= (FACTOR_UNIT / net["inverse_factor"].astype(np.float64))[None, :, None, None]
    return worth
