"""From real weights to the whole numbers that a file holds, with gradients straight through the rounding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields.activations import ACTIVATION_MAX, round_through
from inrwsi.fields.field import BIAS_MAX, FieldConfig, Numbers, WholeLayer
from inrwsi.fields.networks import INPUT, FieldNet, Layer, run_layers

Scales = dict[str, float]


@torch.no_grad()
def measure_activations(net: FieldNet, inputs: Iterable[Tensor]) -> Scales:
    """What one unit of the whole output of each layer is worth whose activation has no range of its own.

    Args:
        inputs: real inputs of the network that show what ranges there are.
    """
    peaks = {layer.name: 1e-6 for layer in net.layers[:-1] if layer.activation.steps is None}

    def run(layer: Layer, x: Tensor) -> Tensor:
        out = net.run_layer(layer, x, 1)
        if layer.name in peaks:
            peaks[layer.name] = max(peaks[layer.name], float(out.abs().max()))
        return out

    for x in inputs:
        run_layers(net.layers, x, run)
    return {layer.name: peaks[layer.name] / layer.activation.top for layer in net.layers if layer.name in peaks}


def quantise(
    net: FieldNet, config: FieldConfig, input_unit: float, out_scale: Scales, cut: float = 0.0
) -> dict[str, WholeLayer]:
    """The network on whole numbers: rounded weights, straight through, and the multiplier of each channel's sum.

    A layer's real weights times the worth of one unit of each input are scaled, an output channel at a time, to the
    whole range of its bits.

    Args:
        input_unit: what one unit of the network's input is worth.
        out_scale: from `measure_activations`.
        cut: 0 for the whole range of a weight's bits, to 1 for the least: fewer steps, which compress better. The first
            layer of sines keeps its 16 bits.
    """
    worth = {INPUT: input_unit} | {layer.name: out_scale.get(layer.name, 1 / ACTIVATION_MAX) for layer in net.layers}
    outputs = {layer.name: layer.outputs for layer in net.layers}
    found = {}
    for layer in net.layers:
        module = net.get_submodule(layer.name)
        units = [worth[source] for source in layer.after]
        if len(units) == 1:
            weight = module.weight * units[0]
        else:
            counts = torch.tensor([outputs[source] for source in layer.after])
            unit = module.weight.new_tensor(units).repeat_interleave(counts.to(module.weight.device))
            weight = module.weight * unit[None, :, None, None]
        scale = weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(1e-12) / _largest(layer, config, cut)
        whole = round_through(weight / scale[:, None, None, None])
        steps = _steps(net, config, layer, out_scale)
        bias = None if layer.bias_start is None else round_through(_held(module.bias * steps, layer))
        found[layer.name] = WholeLayer(whole, scale * steps, bias)
    return found


def _largest(layer: Layer, config: FieldConfig, cut: float) -> float:
    """Absolute value that a layer's weights are scaled to."""
    return config.weight_max(layer) ** (1.0 if layer.fine else 1.0 - cut)


def _steps(net: FieldNet, config: FieldConfig, layer: Layer, out_scale: Scales) -> Tensor | float:
    """Whole numbers before its activation that a real unit of a layer's sum becomes, omega and all; or (outputs,)."""
    omega = net.omega(layer)
    if layer is net.layers[-1]:
        weight, last = net.get_submodule(layer.name).weight, layer.activation.last_steps(config.sample_ranges)
        if isinstance(omega, Tensor):
            return weight.new_tensor(last) * omega
        return weight.new_tensor([steps * omega for steps in last])
    return (1 / out_scale[layer.name] if layer.activation.steps is None else layer.activation.steps) * omega


def _held(bias: Tensor, layer: Layer) -> Tensor:
    """What 16 bits hold of a bias, so that the fit knows of it: half a range of 16 bits is just as much."""
    return bias if layer.activation.period is not None else bias.clamp(-BIAS_MAX, BIAS_MAX)


def frozen(config: FieldConfig, numbers: Numbers) -> dict[str, np.ndarray]:
    """The tensors of `config.network_tensors`."""
    expected = config.network_tensors()
    tensors = {}
    for layer in config.layers():
        whole = numbers[layer.name]
        tensors[f"{layer.name}.weight"] = whole.weight.detach().round().cpu().numpy()
        tensors[f"{layer.name}.multiplier"] = whole.multiplier.detach().cpu().numpy()
        if whole.bias is not None:
            bias = whole.bias.detach().cpu().numpy()
            period = layer.activation.period
            if period is not None:
                bias = (bias + period // 2) % period - period // 2
            tensors[f"{layer.name}.bias"] = bias.clip(-BIAS_MAX, BIAS_MAX)
    return {name: array.astype(expected[name][1]) for name, array in tensors.items()}
