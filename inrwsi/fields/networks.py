"""Networks as lists of layers: what each takes, its kernel and what follows it. The dual flow of CINR, and MLPs.

Sources: Lee et al., "Convolutional Implicit Neural Representation of pathology whole-slide images" (CINR, MICCAI
2024), section 2, and its reference implementation; Sitzmann et al., "Implicit neural representations with periodic
activation functions" (SIREN, 2020), section 3.2; Mueller et al. 2022 for the MLP.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inrwsi.fields.activations import LINEAR, RELU, SINE, Activation

INPUT = "input"


@dataclass(frozen=True)
class DualFlowConfig:
    """Shape of a `DualFlowNet`.

    Attributes:
        inputs: features a position, 1 to 1024.
        width: maps of the hidden layers, 1 to 1024.
        channels: samples a pixel, 1 to 64.
        omega: factor before each sine, above 0 and at most 1000.

    Raises:
        ValueError: a number is out of range.
    """

    inputs: int
    width: int
    channels: int
    omega: float = 30.0

    def __post_init__(self) -> None:
        for name, value, high in (
            ("inputs", self.inputs, 1024),
            ("width", self.width, 1024),
            ("channels", self.channels, 64),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
                raise ValueError(f"{name} is {value!r}; it must be an integer from 1 to {high}")
        if isinstance(self.omega, bool) or not isinstance(self.omega, (int, float)) or not 0 < self.omega <= 1000:
            raise ValueError(f"omega is {self.omega!r}; it must be a number above 0 and at most 1000")


@dataclass(frozen=True)
class Layer:
    """One convolution and what follows it: activation(omega * (weight x + bias)).

    Attributes:
        name: that of its module: part, dot, number.
        after: the layers whose outputs it takes, one after another as channels; `INPUT` is the network's input.
        start: weights are drawn uniform within +- this.
        omega: factor before the activation.
        bias_start: None where there is no bias; else it is drawn uniform within +- this.
        fine: its weights are kept in 16 bits, whatever those of the others are.
        learns_omega: omega is a number a channel, which is fitted too.
    """

    name: str
    inputs: int
    outputs: int
    kernel_px: int
    activation: Activation
    after: tuple[str, ...]
    start: float
    omega: float = 1.0
    bias_start: float | None = None
    fine: bool = False
    learns_omega: bool = False

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(outputs, inputs, kernel, kernel) of the weights."""
        return (self.outputs, self.inputs, self.kernel_px, self.kernel_px)


Layers = tuple[Layer, ...]


@lru_cache(maxsize=64)
def margins_px(layers: Layers) -> dict[str, int]:
    """Pixels on every side, beyond those of the result, that the input and each layer's output must reach.

    Convolutions are valid, never padded: the caller hands the input of so many more pixels, and so a pixel has the
    same value whichever rectangle it was asked with.
    """
    need = {layers[-1].name: 0}
    for layer in reversed(layers):
        for source in layer.after:
            need[source] = max(need.get(source, 0), need[layer.name] + layer.kernel_px // 2)
    return need


def run_layers(layers: Layers, x: Tensor, step: Callable[[Layer, Tensor], Tensor], dilation: int = 1) -> Tensor:
    """The layers in turn, each on what it takes.

    Args:
        x: (B, inputs, H + 2 m d, W + 2 m d), with m the input's margin and d the dilation.
        step: a layer and its input (B, layer.inputs, h, w) to its output, (kernel - 1) * dilation smaller.

    Returns:
        (B, channels, H, W).
    """
    need = margins_px(layers)
    last_use = {source: layer.name for layer in layers for source in layer.after}
    held = {INPUT: x}
    for layer in layers:
        reach = need[layer.name] + layer.kernel_px // 2
        parts = [_crop(held[source], (need[source] - reach) * dilation) for source in layer.after]
        for source in layer.after:
            if last_use[source] == layer.name:
                del held[source]
        held[layer.name] = step(layer, parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
    return held[layers[-1].name]


def _crop(x: Tensor, margin_px: int) -> Tensor:
    return x[..., margin_px:-margin_px, margin_px:-margin_px] if margin_px else x


def xavier(inputs: int, outputs: int) -> float:
    """The bound from which tiny-cuda-nn draws the weights of its MLPs."""
    return math.sqrt(6 / (inputs + outputs))


def sine_start(terms: int, omega: float) -> float:
    """The bound that keeps the input of every sine of unit variance (SIREN, section 3.2 and theorem 1.8)."""
    return math.sqrt(6 / terms) / omega


def dual_flow_layers(config: DualFlowConfig) -> Layers:
    """Every layer of the network, in the order in which a forward pass may run them.

    Two streams over the features of an encoding: an MLP a pixel, and 3x3 convolutions followed by sines. Stage 1:
    `mlp1` beside `cnn1`. Stage 2: `cnn2` on both, concatenated (convolutions first), beside `mlp2` on the output of
    `mlp1`. Then `last` on both, whose sine gives samples in [-1, 1].

    At 48 inputs, width 128 and 3 channels: mlp1 38,912 weights, cnn1 202,752, mlp2 49,152, cnn2 442,368, last 6,912;
    740,096 in all.

    Sine layers start within +-1/n for the first of the network and `sine_start` for the others. n counts all terms of a
    sum, nine a channel. The reference counts the channels alone: its phases then start three times wider, at 3 radians
    rms, where SIREN's derivation wants 1. Measured on a 256x256 crop, width 32, 120 steps of Adam at 1e-4 (tables
    1e-2): 22.1 dB with nine a channel, 9.3 dB with one.
    """
    n, w = config.inputs, config.width

    def dense(name: str, inputs: int, after: str, activation: Activation) -> Layer:
        return Layer(name, inputs, w, 1, activation, (after,), xavier(inputs, w))

    def wave(name: str, inputs: int, outputs: int, *after: str) -> Layer:
        start = 1 / (9 * inputs) if after == (INPUT,) else sine_start(9 * inputs, config.omega)
        return Layer(name, inputs, outputs, 3, SINE, after, start, config.omega)

    return (
        dense("mlp1.0", n, INPUT, RELU),
        dense("mlp1.1", w, "mlp1.0", RELU),
        dense("mlp1.2", w, "mlp1.1", LINEAR),
        wave("cnn1.0", n, w, INPUT),
        wave("cnn1.1", w, w, "cnn1.0"),
        dense("mlp2.0", w, "mlp1.2", RELU),
        dense("mlp2.1", w, "mlp2.0", RELU),
        dense("mlp2.2", w, "mlp2.1", LINEAR),
        wave("cnn2.0", 2 * w, w, "cnn1.1", "mlp1.2"),
        wave("cnn2.1", w, w, "cnn2.0"),
        wave("last", 2 * w, config.channels, "cnn2.1", "mlp2.2"),
    )


def relu_layers(inputs: int, width: int, hidden: int, outputs: int, *, biases: bool = False) -> Layers:
    """An MLP of `hidden` layers of ReLU, then a linear one.

    Without biases it is that of NGP (Mueller et al. 2022, section 3, in tiny-cuda-nn, which pads the outputs to 16):
    with 48 inputs, 4 layers of 128 then have 57,344 weights (NGP of Lee et al.), 8 of 256 475,136 (ENGP).
    """

    def layer(name: str, after: str, n: int, out: int, activation: Activation) -> Layer:
        start = 1 / math.sqrt(n) if biases else None
        return Layer(name, n, out, 1, activation, (after,), xavier(n, out), bias_start=start)

    first = layer("mlp.0", INPUT, inputs, width, RELU)
    others = [layer(f"mlp.{i}", f"mlp.{i - 1}", width, width, RELU) for i in range(1, hidden)]
    return (first, *others, layer("last", f"mlp.{hidden - 1}", width, outputs, LINEAR))


def sine_layers(
    inputs: int,
    width: int,
    hidden: int,
    outputs: int,
    omega: float,
    *,
    kernel_px: int = 1,
    activation: Activation = SINE,
    learns_omega: bool = False,
) -> Layers:
    """The network of SIREN: a first layer on the position, `hidden` more, each followed by a sine; then a linear one.

    Weights of the first layer start within +-1/inputs, the others' within `sine_start`; biases as in PyTorch's own
    layers, which the paper's implementation leaves as they are.
    """
    area = kernel_px**2
    start, bias = sine_start(width * area, omega), 1 / math.sqrt(width * area)

    def layer(i: int) -> Layer:
        name, n, after = f"sine.{i}", width if i else inputs, f"sine.{i - 1}" if i else INPUT
        # The positions under a kernel are all but one: their nine weights add up as one that is three times as wide.
        first = 1 / (n * kernel_px), 1 / math.sqrt(n * area)
        return Layer(
            name,
            n,
            width,
            kernel_px,
            activation,
            (after,),
            start if i else first[0],
            omega,
            bias if i else first[1],
            fine=not i,
            learns_omega=learns_omega,
        )

    waves = [layer(i) for i in range(hidden + 1)]
    return (*waves, Layer("last", width, outputs, kernel_px, LINEAR, (waves[-1].name,), start, 1.0, bias))


class FieldNet(nn.Module):
    """The layers as modules with real weights, drawn as each layer says; the fit begins with it."""

    def __init__(self, layers: Layers, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = layers
        for layer in layers:
            module = nn.Module()
            module.weight = nn.Parameter(torch.empty(layer.shape))
            if layer.bias_start is not None:
                module.bias = nn.Parameter(torch.empty(layer.outputs))
            if layer.learns_omega:
                module.omega = nn.Parameter(torch.full((layer.outputs,), layer.omega))
            self._place(layer.name, module)
        self.reset_parameters(generator)

    def _place(self, name: str, module: nn.Module) -> None:
        part, _, number = name.partition(".")
        if not number:
            self.add_module(part, module)
            return
        if part not in self._modules:
            self.add_module(part, nn.Module())
        self.get_submodule(part).add_module(number, module)

    @property
    def halo_px(self) -> int:
        """Pixels on every side that a forward pass needs beyond its output, at dilation 1."""
        return margins_px(self.layers)[INPUT]

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights and biases, in the order of the layers."""
        for layer in self.layers:
            module = self.get_submodule(layer.name)
            module.weight.uniform_(-layer.start, layer.start, generator=generator)
            if layer.bias_start is not None:
                module.bias.uniform_(-layer.bias_start, layer.bias_start, generator=generator)

    def omega(self, layer: Layer) -> Tensor | float:
        """What a layer's sum is multiplied by: a number, or (outputs,) that are fitted."""
        return self.get_submodule(layer.name).omega if layer.learns_omega else layer.omega

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The weights by part, such as mlp1, cnn1, mlp2, cnn2, last."""
        parts: dict[str, list[nn.Parameter]] = {}
        for layer in self.layers:
            parts.setdefault(layer.part, []).extend(self.get_submodule(layer.name).parameters())
        return parts

    def macs_per_pixel(self) -> int:
        """Multiplications an output pixel, the halo not counted: each weight is used once."""
        return sum(math.prod(layer.shape) for layer in self.layers)

    def run_layer(self, layer: Layer, x: Tensor, dilation: int) -> Tensor:
        """One convolution and its activation; a subclass that changes what a layer does changes this alone."""
        module = self.get_submodule(layer.name)
        x = F.conv2d(x, module.weight, getattr(module, "bias", None), dilation=dilation)
        omega = self.omega(layer)
        if isinstance(omega, Tensor):
            omega = omega[:, None, None]
        # `1 * x` would be a pass over the maps for nothing
        return layer.activation.real(x if layer.omega == 1.0 and not layer.learns_omega else omega * x)

    def forward(self, x: Tensor, dilation: int = 1) -> Tensor:
        """What the last layer gives, from the network's input.

        Args:
            x: (B, inputs, H + 2 m d, W + 2 m d) for m = halo_px and d = dilation; rows are y.
            dilation: rows (and columns) of `x` from a pixel to its neighbour. On a grid m times finer than
                native, m keeps the neighbours one native pixel apart, as they were in the fit.

        Returns:
            (B, channels, H, W), where samples 0..255 span about [-1, 1].

        Raises:
            ValueError: the input has the wrong shape, or leaves no pixel once the halo is gone.
        """
        if dilation < 1:
            raise ValueError(f"the dilation is {dilation}; it must be at least 1")
        least = 2 * self.halo_px * dilation + 1
        inputs = next(layer.inputs for layer in self.layers if layer.after == (INPUT,))
        if x.dim() != 4 or x.shape[1] != inputs or min(x.shape[2:]) < least:
            raise ValueError(
                f"features are {tuple(x.shape)}; they must be (B, {inputs}, H, W) with H and W at least {least}"
            )
        return run_layers(self.layers, x, lambda layer, x: self.run_layer(layer, x, dilation), dilation)


class DualFlowNet(FieldNet):
    """The dual-flow network of CINR with real weights: see `dual_flow_layers`."""

    def __init__(self, config: DualFlowConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(dual_flow_layers(config), generator)
        self.config = config
