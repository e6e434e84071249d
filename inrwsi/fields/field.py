"""A slide area as a function of position, on whole numbers: what every model that is fitted by descent shares.

A model is a config (a subclass of `FieldConfig`, one file in `fields/models`): it names its layers and makes their
input from positions. What is ours, whatever the paper, is the arithmetic: inputs, activations and weights are whole
numbers, every convolution sums whole numbers below 2^24 in fp32 (below 2^53 in fp64 where that does not hold), which is
exact in any order; rescaling is one correctly rounded fp32 product and a rounding; the sine is a table. So a file
decodes to the same pixels on every CPU, GPU and thread count, and a pixel does not depend on the region that it was
asked with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.coding.base_layer import KINDS
from inrwsi.config import check, check_int
from inrwsi.fields import whole_sums
from inrwsi.fields.activations import RELU_MAX
from inrwsi.fields.networks import INPUT, Layer, Layers, margins_px, run_layers
from inrwsi.fields.ranges import BYTES, DEEP_MAX, LEVEL_MAX, Ranges, to_levels

MAX_TILE_PX = 4096
BLOCK_PX = 128
FINE_BITS = 16
BIAS_MAX = 2**15 - 1

STORED_BYTES = {"int8": 0.96, "int16": 1.9, "float32": 3.2}  # of a number after zstd, about

Expected = dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Span:
    """Samples along one axis of a tile.

    Attributes:
        start: the first, in samples of 1 / finer pixel from the tile's edge; may be negative.
        count: how many.
        finer: samples a pixel.
        stride: from one to the next, in samples.
    """

    start: int
    count: int
    finer: int = 1
    stride: int = 1

    def widened(self, halo_px: int) -> Span:
        """With `halo_px` pixels more at either end."""
        halo = halo_px * self.finer
        return Span(self.start - halo, self.count + 2 * halo, self.finer, self.stride) if halo else self

    def indices(self) -> np.ndarray:
        """(count,) int64."""
        return self.start + self.stride * np.arange(self.count, dtype=np.int64)


@dataclass(frozen=True)
class WholeLayer:
    """A layer's numbers: `weight` (out, in, k, k) whole, `multiplier` (out,) from a sum to whole activations or steps
    of a turn, and `bias` (out,) whole, or None, which is added after the multiplication."""

    weight: Tensor
    multiplier: Tensor
    bias: Tensor | None = None


Numbers = Mapping[str, WholeLayer]


@dataclass(frozen=True)
class Tile:
    """What a tile is decoded from: the network, and where the model has one, a table and what its entries are worth."""

    numbers: Numbers
    table: Tensor | None = None
    gain: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class FieldConfig(ABC):
    """The model's part of the header. A subclass of one of `tables.TableConfig` and `coordinates.CoordinateConfig`.

    Attributes:
        name: of the model; the subclass's default is the only value.
        channels: samples a pixel.
        weight_bits: of the network's weights, 8 or 16.
        base_layer: the codec of the tiles' base layers, whose residual the field is; None where there are none.
        ranges: (low, high) of each channel's samples, where they have 16 bits; None where they have 8.
    """

    name: str = ""
    channels: int
    weight_bits: int
    base_layer: str | None = None
    ranges: Ranges | None = None

    tile_px: ClassVar[int] = 512  # where nobody says
    passes: ClassVar[int] = 6  # likewise
    input_max: ClassVar[int] = RELU_MAX  # largest absolute value of the network's input
    named_payload: ClassVar[bool] = False  # whether payloads are safetensors, or else the bare numbers

    def __post_init__(self) -> None:
        check(self.name == type(self).name, "name", self.name, type(self).name)
        check(self.weight_bits in (8, 16), "weight_bits", self.weight_bits, "8 or 16")
        check_int("channels", self.channels, 1, 16)
        check(self.base_layer is None or self.base_layer in KINDS, "base_layer", self.base_layer, f"one of {KINDS}")
        if self.base_layer is not None:
            check(self.channels in (1, 3), "channels", self.channels, "1 or 3 with a base layer")
            check(self.ranges is None, "ranges", self.ranges, "left out with a base layer")
        if self.ranges is not None:
            check(len(self.ranges) == self.channels, "ranges", self.ranges, f"{self.channels} pairs")
            for low, high in self.ranges:
                want = f"two numbers of 0 to {DEEP_MAX}, the second at least {LEVEL_MAX} above the first"
                check(0 <= low <= high - LEVEL_MAX and high <= DEEP_MAX, "ranges", (low, high), want)

    @classmethod
    @abstractmethod
    def for_bpp(cls, bpp: float, tile_px: int, channels: int, weight_bits: int) -> Self:
        """The config that spends about `bpp` bits a pixel on a tile; rather more than less.

        Raises:
            UsageError: the model cannot be that small.
        """

    @classmethod
    def least_bpp(cls, tile_px: int, channels: int, weight_bits: int) -> float:
        """Bits a pixel of a tile below which `for_bpp` has nothing."""
        return 0.0

    @abstractmethod
    def layers(self) -> Layers:
        """The network."""

    @abstractmethod
    def slide_tensors(self) -> Expected:
        """What the file holds once a slide: name to (shape, dtype). Empty: there is no section of weights."""

    def slide_from(self, tensors: Mapping[str, np.ndarray], device: torch.device) -> Tile:
        """What all tiles share, from the tensors of `slide_tensors`; only of models that have some."""
        raise NotImplementedError

    @abstractmethod
    def tile_tensors(self) -> Expected:
        """What a coded chunk's payload holds: name to (shape, dtype)."""

    @abstractmethod
    def tile_from(self, slide: Tile | None, tensors: Mapping[str, np.ndarray], device: torch.device) -> Tile:
        """The tensors of `tile_tensors` as what a tile is decoded from; ValueError where they are not of the spec."""

    @abstractmethod
    def inputs(self, tile: Tile, tile_px: int, rows: Span, columns: Span) -> Tensor:
        """The network's input, (1, n, rows, columns) fp32 whole numbers."""

    @property
    def sample_ranges(self) -> Ranges:
        """Of every channel, also where the file has none of its own."""
        return self.ranges or (BYTES,) * self.channels

    def as_levels(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w, channels) samples as a fit is given them: uint8 as they are, uint16 as fp32 levels of the ranges."""
        return pixels if self.ranges is None else to_levels(pixels, self.ranges)

    @property
    def halo_px(self) -> int:
        """Pixels around the wanted ones that the network needs."""
        return margins_px(self.layers())[INPUT]

    def weight_max(self, layer: Layer) -> int:
        """Largest absolute value of a layer's weight."""
        return 2 ** ((FINE_BITS if layer.fine else self.weight_bits) - 1) - 1

    def network_tensors(self) -> Expected:
        """Every tensor of the network: name to (shape, dtype), layer by layer."""
        tensors: Expected = {}
        for layer in self.layers():
            tensors[f"{layer.name}.weight"] = (layer.shape, "int8" if self.weight_max(layer) == 127 else "int16")
            tensors[f"{layer.name}.multiplier"] = (layer.shape[:1], "float32")
            if layer.bias_start is not None:
                tensors[f"{layer.name}.bias"] = (layer.shape[:1], "int16")
        return tensors

    def numbers(self, tensors: Mapping[str, np.ndarray], device: torch.device) -> dict[str, WholeLayer]:
        """The network's tensors, ready for `forward`."""
        ready = {}
        for layer in self.layers():
            weight = torch.from_numpy(np.array(tensors[f"{layer.name}.weight"])).to(torch.float64)
            # |sum| <= sum of |weight| times the largest input; in fp32 only where that cannot reach 2^24
            largest = max(RELU_MAX, self.input_max) if INPUT in layer.after else RELU_MAX
            dtype = torch.float32 if weight.abs().sum(dim=(1, 2, 3)).max().item() * largest < 2**24 else torch.float64
            multiplier = torch.from_numpy(np.array(tensors[f"{layer.name}.multiplier"])).to(device)
            bias = tensors.get(f"{layer.name}.bias")
            whole = None if bias is None else torch.from_numpy(np.array(bias)).to(device, torch.float32)
            ready[layer.name] = WholeLayer(weight.to(device, dtype), multiplier, whole)
        return ready


def estimated_bytes(tensors: Expected) -> float:
    """What such tensors take in the file, about."""
    return sum(math.prod(shape) * STORED_BYTES[dtype] for shape, dtype in tensors.values())


def forward(
    layers: Layers, numbers: Numbers, x: Tensor, ranges: Ranges | None = None, *, dilation: int = 1, exact: bool = True
) -> Tensor:
    """A network on whole numbers.

    Args:
        x: (B, inputs, h + 2 m d, w + 2 m d), whole numbers, with m the input's margin and d the dilation.
        ranges: of the samples; 0..255 of each channel by default.
        exact: decode: rounded, sine by table, returns samples. Otherwise, for the fit: rounding passes gradients
            straight through, and the result is levels (`fields.ranges`) as floats, not rounded.

    Returns:
        (B, channels, h, w) float tensor.
    """
    last, spans = layers[-1].name, ranges or (BYTES,) * layers[-1].outputs

    def step(layer: Layer, x: Tensor) -> Tensor:
        whole, kind = numbers[layer.name], layer.activation
        if exact:
            v = (_convolve(x, whole.weight, dilation) * whole.multiplier[:, None, None]).round_()
            if whole.bias is not None:
                v += whole.bias[:, None, None]
            return kind.samples(v, spans) if layer.name == last else kind.exact(v)
        # in the fit the multiplier goes into the weights: one pass over the maps less, and rounding comes after it
        weight = (whole.weight * whole.multiplier[:, None, None, None]).to(torch.float32)
        v = F.conv2d(x, weight, whole.bias, dilation=dilation)
        return kind.soft_samples(v, spans) if layer.name == last else kind.soft(v)

    return run_layers(layers, x, step, dilation)


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Valid convolution; exact on whole numbers whose sums fit the weights' dtype."""
    if x.device.type != "cpu":
        return whole_sums.convolve(x, weight, dilation)
    return F.conv2d(x.to(weight.dtype), weight, dilation=dilation).to(torch.float32)


@torch.inference_mode()
def decode_block(
    config: FieldConfig, tile: Tile, tile_px: int, block_xy: tuple[int, int], block_wh: tuple[int, int], finer: int = 1
) -> np.ndarray:
    """Decode a block of a tile.

    Args:
        tile_px: side of a tile, the grid's `chunk_px`.
        block_xy: the block's first pixel, from the tile's corner.
        block_wh: its size in pixels.
        finer: samples a pixel along each axis: the field between the pixels.

    Returns:
        (h * finer, w * finer, channels) uint8, or uint16 where the config has ranges.
    """
    columns, rows = (
        Span(at * finer, size * finer, finer).widened(config.halo_px)
        for at, size in zip(block_xy, block_wh, strict=True)
    )
    x = config.inputs(tile, tile_px, rows, columns)
    y = forward(config.layers(), tile.numbers, x, config.sample_ranges, dilation=finer)[0].permute(1, 2, 0)
    if config.ranges is None:
        return y.to(torch.uint8).cpu().numpy()
    return y.cpu().numpy().astype(np.uint16)
