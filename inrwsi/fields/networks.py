"""The dual-flow network of CINR: what a pixel's features, and those of its neighbours, become.

Source: Lee et al., "Convolutional Implicit Neural Representation of pathology whole-slide images" (CINR, MICCAI
2024), section 2, and its reference implementation. Sine layers: Sitzmann et al., "Implicit neural representations with
periodic activation functions" (SIREN, 2020), section 3.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["relu", "sine", "linear"]


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
    """One convolution without bias, and what follows it. `name` is that of its module: part, dot, number."""

    name: str
    inputs: int
    outputs: int
    kernel_px: int
    activation: Activation

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]


def dual_flow_layers(config: DualFlowConfig) -> tuple[Layer, ...]:
    """Every layer of the network, in the order in which a forward pass may run them.

    At 48 inputs, width 128 and 3 channels: mlp1 38,912 weights, cnn1 202,752, mlp2 49,152, cnn2 442,368, last 6,912;
    740,096 in all.
    """
    n, w = config.inputs, config.width
    return (
        Layer("mlp1.0", n, w, 1, "relu"),
        Layer("mlp1.1", w, w, 1, "relu"),
        Layer("mlp1.2", w, w, 1, "linear"),
        Layer("cnn1.0", n, w, 3, "sine"),
        Layer("cnn1.1", w, w, 3, "sine"),
        Layer("mlp2.0", w, w, 1, "relu"),
        Layer("mlp2.1", w, w, 1, "relu"),
        Layer("mlp2.2", w, w, 1, "linear"),
        Layer("cnn2.0", 2 * w, w, 3, "sine"),
        Layer("cnn2.1", w, w, 3, "sine"),
        Layer("last", 2 * w, config.channels, 3, "sine"),
    )


class ValidConv2d(nn.Conv2d):
    """A convolution without padding or bias whose dilation is chosen a call."""

    def __init__(self, inputs: int, outputs: int, kernel_px: int) -> None:
        super().__init__(inputs, outputs, kernel_px, bias=False)

    def forward(self, x: Tensor, dilation: int = 1) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H - r, W - r) with r = (kernel - 1) * dilation."""
        return F.conv2d(x, self.weight, dilation=dilation)


class DualFlowNet(nn.Module):
    """Two streams over the features of an encoding: an MLP a pixel, and 3x3 convolutions followed by sines.

    Stage 1: `mlp1` beside `cnn1`. Stage 2: `cnn2` on both, concatenated (convolutions first), beside `mlp2` on the
    output of `mlp1`. Then `last` on both, whose sine gives samples in [-1, 1].

    Convolutions are valid, never padded: the caller hands the features of `halo_px` more pixels on every side, and so
    a pixel has the same value whichever rectangle it was asked with.
    """

    def __init__(self, config: DualFlowConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.layers = dual_flow_layers(config)
        modules = {layer.name: ValidConv2d(layer.inputs, layer.outputs, layer.kernel_px) for layer in self.layers}
        for part in ("mlp1", "cnn1", "mlp2", "cnn2"):
            self.add_module(part, nn.ModuleList(m for name, m in modules.items() if name.startswith(f"{part}.")))
        self.last = modules["last"]
        self.reset_parameters(generator)

    @property
    def halo_px(self) -> int:
        """Pixels on every side that a forward pass needs beyond its output, at dilation 1: one a 3x3 layer in turn."""
        return 5

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw the initial weights.

        MLPs: uniform within +-sqrt(6 / (inputs + outputs)), as tiny-cuda-nn does. Sine layers: uniform within +-1/n for
        the first of the network and +-sqrt(6 / n) / omega for the others (SIREN, section 3.2).

        n counts all terms of a sum, nine a channel. The reference counts the channels alone: its phases then start
        three times wider, at 3 radians rms, where SIREN's derivation wants 1. Measured on a 256x256 crop, width 32,
        120 steps of Adam at 1e-4 (tables 1e-2): 22.1 dB with nine a channel, 9.3 dB with one.
        """
        for layer in self.layers:
            terms = layer.inputs * layer.kernel_px**2
            if layer.activation != "sine":
                bound = math.sqrt(6 / (layer.inputs + layer.outputs))
            elif layer.name == "cnn1.0":
                bound = 1 / terms
            else:
                bound = math.sqrt(6 / terms) / self.config.omega
            self.get_submodule(layer.name).weight.uniform_(-bound, bound, generator=generator)

    def part_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The weights by part: mlp1, cnn1, mlp2, cnn2, last."""
        parts: dict[str, list[nn.Parameter]] = {}
        for layer in self.layers:
            parts.setdefault(layer.part, []).extend(self.get_submodule(layer.name).parameters())
        return parts

    def macs_per_pixel(self) -> int:
        """Multiplications an output pixel, the halo not counted: each weight is used once."""
        return sum(weight.numel() for weight in self.parameters())

    def run_layer(self, layer: Layer, x: Tensor, dilation: int) -> Tensor:
        """One convolution and its activation; a subclass that rounds weights or activations changes this alone."""
        x = self.get_submodule(layer.name)(x, dilation)
        if layer.activation == "sine":
            return torch.sin(self.config.omega * x)
        return torch.relu(x) if layer.activation == "relu" else x

    def run_part(self, part: str, x: Tensor, dilation: int) -> Tensor:
        """The layers of one part in turn."""
        for layer in self.layers:
            if layer.part == part:
                x = self.run_layer(layer, x, dilation)
        return x

    def forward(self, features: Tensor, dilation: int = 1) -> Tensor:
        """Samples from features.

        Args:
            features: (B, inputs, H + 10 d, W + 10 d) for d = dilation; rows are y.
            dilation: rows (and columns) of `features` from a pixel to its neighbour. On a grid m times finer than
                native, m keeps the neighbours one native pixel apart, as they were in the fit.

        Returns:
            (B, channels, H, W) in [-1, 1].

        Raises:
            ValueError: the features have the wrong shape, or leave no pixel once the halo is gone.
        """
        if dilation < 1:
            raise ValueError(f"the dilation is {dilation}; it must be at least 1")
        least = 2 * self.halo_px * dilation + 1
        if features.dim() != 4 or features.shape[1] != self.config.inputs or min(features.shape[2:]) < least:
            raise ValueError(
                f"features are {tuple(features.shape)}; "
                f"they must be (B, {self.config.inputs}, H, W) with H and W at least {least}"
            )
        flow = self.run_part("mlp1", _crop(features, 2 * dilation), dilation)
        waves = self.run_part("cnn1", features, dilation)
        waves = self.run_part("cnn2", torch.cat((waves, flow), 1), dilation)
        flow = self.run_part("mlp2", _crop(flow, 2 * dilation), dilation)
        return self.run_part("last", torch.cat((waves, flow), 1), dilation)


def _crop(x: Tensor, margin_px: int) -> Tensor:
    return x[..., margin_px:-margin_px, margin_px:-margin_px]
