"""The paper's model as a codec: quantised tables a tile, one quantised dual-flow network a slide, integers throughout.

Source of the network: CINR (Lee et al., MICCAI 2024), section 2; of the tables: Mueller et al. 2022. What is ours is
the arithmetic: table entries, activations and weights are whole numbers, every convolution sums whole numbers below
2^24 in fp32 (below 2^53 in fp64 with 16-bit weights), which is exact in any order; rescaling is one correctly rounded
fp32 product and a rounding; the sine is a table. So a file decodes to the same pixels on every CPU, GPU and thread
count, and a pixel does not depend on the region that it was asked with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.config import ConfigError, check, check_int
from inrwsi.fields.encodings import HashGridConfig
from inrwsi.fields.grid import FRACTION, encode_grid, plan_axis
from inrwsi.fields.networks import Activation, DualFlowConfig, dual_flow_layers

ACTIVATION_MAX = 127
RELU_MAX = 255
SINE_STEPS = 4096
RADIANS_A_STEP = 2 * math.pi / SINE_STEPS
MAX_TABLE_VALUES = 2**24
MAX_TILE_PX = 4096
BLOCK_PX = 128
HALO_PX = 5
MARGIN_PX = 8
STORED_BITS = {4: 3.3, 6: 5.2, 8: 7.2}  # of a table entry after zstd, about, by table_bits

KINDS: dict[str, Activation] = {
    layer.name: layer.activation for layer in dual_flow_layers(DualFlowConfig(inputs=1, width=1, channels=1))
}


@dataclass(frozen=True)
class CinrConfig:
    """The model's part of the header (SPEC.md, Annex A)."""

    levels: int
    features: int
    log2_table: int
    base_resolution: int
    per_level_scale: float
    width: int
    channels: int
    table_bits: int
    weight_bits: int
    name: str = "cinr"

    def __post_init__(self) -> None:
        check(self.name == "cinr", "name", self.name, "cinr")
        check(self.table_bits in (4, 6, 8), "table_bits", self.table_bits, "4, 6 or 8")
        check(self.weight_bits in (8, 16), "weight_bits", self.weight_bits, "8 or 16")
        check_int("width", self.width, 4, 256)
        check_int("channels", self.channels, 1, 16)
        try:
            values = self.grid.parameter_count
        except ValueError as error:
            raise ConfigError(str(error)) from None
        check(values <= MAX_TABLE_VALUES, "table values", values, f"at most {MAX_TABLE_VALUES}")

    @property
    def grid(self) -> HashGridConfig:
        """The hash grid of one tile."""
        return HashGridConfig(
            self.levels, self.features, self.log2_table, self.base_resolution, self.per_level_scale
        )  # fmt: skip

    @property
    def network(self) -> DualFlowConfig:
        return DualFlowConfig(inputs=self.levels * self.features, width=self.width, channels=self.channels)

    @property
    def table_max(self) -> int:
        """Largest absolute value of a table entry."""
        return 2 ** (self.table_bits - 1) - 1

    @property
    def weight_max(self) -> int:
        """Largest absolute value of a network weight."""
        return 2 ** (self.weight_bits - 1) - 1

    def weight_shapes(self) -> dict[str, tuple[int, int, int, int]]:
        """Layer to (out, in, kernel, kernel) of its weights."""
        return {
            layer.name: (layer.outputs, layer.inputs, layer.kernel_px, layer.kernel_px)
            for layer in dual_flow_layers(self.network)
        }

    def weight_tensors(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Every tensor of the file's weights: name to (shape, dtype)."""
        tensors: dict[str, tuple[tuple[int, ...], str]] = {"table.gain": ((self.levels,), "float32")}
        for name, shape in self.weight_shapes().items():
            tensors[f"{name}.weight"] = (shape, "int8" if self.weight_bits == 8 else "int16")
            tensors[f"{name}.multiplier"] = (shape[:1], "float32")
        return tensors


def config_for_bpp(bpp: float, tile_px: int, channels: int = 3, weight_bits: int = 8) -> CinrConfig:
    """The preset for a target in bits a pixel of tissue.

    Six levels of four features, which grow evenly up to the vertices a side that the target pays for; entries of 4
    bits, or 6 and 8 where the target would otherwise pay for more vertices than pixels. A level's table is as large as
    its grid: at the rates of a codec, collisions cost more than they save.

    Args:
        bpp: of a tile's table; the network, some tens of kB, comes on top once a slide.
        tile_px: side of a tile.
    """
    features, levels = 4, 6
    bits = next(b for b, most_bpp in ((4, 8.0), (6, 14.0), (8, math.inf)) if bpp <= most_bpp)
    values = bpp * tile_px**2 / STORED_BITS[bits]
    low, high = 4.0, 2.0 * tile_px
    for _ in range(40):  # the finest level's side, by bisection: the count grows with it
        finest = (low + high) / 2
        base, scale = _ladder(finest, levels)
        count = HashGridConfig(levels, features, 24, base, scale).parameter_count
        low, high = (finest, high) if count <= values else (low, finest)
    base, scale = _ladder(low, levels)
    return CinrConfig(
        levels=levels,
        features=features,
        log2_table=20,
        base_resolution=base,
        per_level_scale=scale,
        width=32,
        channels=channels,
        table_bits=bits,
        weight_bits=weight_bits,
    )


def _ladder(finest: float, levels: int) -> tuple[int, float]:
    """Base resolution and scale of `levels` that end at `finest` vertices a side."""
    base = max(2, round(finest / 14))
    return base, round(max(1.0, (finest / base) ** (1 / (levels - 1))), 4)


def tile_positions(tile_px: int, start_px: int, count: int, finer: int = 1) -> np.ndarray:
    """Positions of `count` samples along one axis of a tile, (count,) fp64 in (0, 1).

    A tile's table covers its pixels and `MARGIN_PX` around them, so that the halo of the convolutions has features too.

    Args:
        tile_px: side of the tile.
        start_px: the first sample, in samples of 1 / finer pixel from the tile's edge; may be negative.
        finer: samples a pixel.
    """
    samples = start_px + np.arange(count, dtype=np.int64)
    return ((samples + 0.5) / finer + MARGIN_PX) / (tile_px + 2 * MARGIN_PX)


def forward(layers: Mapping[str, tuple[Tensor, Tensor]], x: Tensor, *, dilation: int = 1, exact: bool = True) -> Tensor:
    """The dual-flow network on whole numbers.

    Args:
        layers: name to (weights, whole numbers, (out, in, k, k); multiplier (out,) from a sum to the next units:
            steps of `SINE_STEPS` a turn before a sine, else whole activations).
        x: (B, inputs, h + 10 d, w + 10 d), whole numbers within +-127.
        exact: decode: rounded, sine by table, returns samples 0..255. Otherwise, for the fit: rounding passes
            gradients straight through, and the last sine is returned as a float in 0..255.

    Returns:
        (B, channels, h, w) float tensor.
    """
    d = dilation

    def layer(name: str, x: Tensor) -> Tensor:
        weight, multiplier = layers[name]
        if exact:
            return _activate(KINDS[name], _convolve(x, weight, d) * multiplier[:, None, None])
        # in the fit the multiplier goes into the weights: one pass over the maps less, and rounding comes after it
        return _activate_softly(KINDS[name], F.conv2d(x, _scaled(weight, multiplier), dilation=d))

    flow = layer("mlp1.2", layer("mlp1.1", layer("mlp1.0", _crop(x, 2 * d))))
    waves = layer("cnn1.1", layer("cnn1.0", x))
    waves = layer("cnn2.1", layer("cnn2.0", torch.cat([waves, flow], dim=1)))
    flow = layer("mlp2.2", layer("mlp2.1", layer("mlp2.0", _crop(flow, 2 * d))))
    weight, multiplier = layers["last"]
    x = torch.cat([waves, flow], dim=1)
    if exact:
        phase = _convolve(x, weight, d) * multiplier[:, None, None]
        return _look_up(_sample_table(str(phase.device)), phase)
    phase = F.conv2d(x, _scaled(weight, multiplier), dilation=d)
    return (torch.sin(phase * RADIANS_A_STEP) + 1) * 127.5


def _scaled(weight: Tensor, multiplier: Tensor) -> Tensor:
    return (weight * multiplier[:, None, None, None]).to(torch.float32)


def _crop(x: Tensor, by: int) -> Tensor:
    return x[:, :, by:-by, by:-by]


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Valid convolution; exact on whole numbers whose sums fit the weights' dtype."""
    if x.is_cuda:  # cuDNN may choose a Winograd or FFT algorithm, which is not exact
        with torch.backends.cudnn.flags(enabled=False):
            return F.conv2d(x.to(weight.dtype), weight, dilation=dilation).to(torch.float32)
    return F.conv2d(x.to(weight.dtype), weight, dilation=dilation).to(torch.float32)


def _activate(kind: str, scaled: Tensor) -> Tensor:
    if kind == "sine":
        return _look_up(_sine_table(str(scaled.device)), scaled)
    low, high = (0, RELU_MAX) if kind == "relu" else (-ACTIVATION_MAX, ACTIVATION_MAX)
    return scaled.round().clamp_(low, high)


def _activate_softly(kind: str, scaled: Tensor) -> Tensor:
    if kind == "sine":
        return _RoundedSine.apply(scaled)
    low, high = (0, RELU_MAX) if kind == "relu" else (-ACTIVATION_MAX, ACTIVATION_MAX)
    return round_through(scaled.clamp(low, high))


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


def _look_up(table: Tensor, phase: Tensor) -> Tensor:
    # Beyond 2^30 steps fp32 has no fraction of a turn left; a hostile file's multiplier must still index the table.
    index = torch.nan_to_num(phase.round(), nan=0.0).clamp_(-(2.0**30), 2.0**30).to(torch.int32) & (SINE_STEPS - 1)
    return table.index_select(0, index.reshape(-1)).reshape(index.shape)


@lru_cache(maxsize=8)
def _sine_table(device: str) -> Tensor:
    """round(127 sin(2 pi i / 4096)). SPEC.md lists its checksum: the libm of no machine comes near a tie."""
    return torch.tensor(
        [round(ACTIVATION_MAX * math.sin(2 * math.pi * i / SINE_STEPS)) for i in range(SINE_STEPS)],
        dtype=torch.float32,
        device=device,
    )


@lru_cache(maxsize=8)
def _sample_table(device: str) -> Tensor:
    """round(127.5 (1 + sin(2 pi i / 4096))), a sample of 0..255."""
    values = [math.floor(127.5 * (1 + math.sin(2 * math.pi * i / SINE_STEPS)) + 0.5 + 1e-9) for i in range(SINE_STEPS)]
    return torch.tensor(values, dtype=torch.float32, device=device)


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


def features(
    table: Tensor, config: CinrConfig, gain: Tensor, rows: list, columns: list, *, exact: bool = True
) -> Tensor:
    """Network inputs, whole numbers within +-127, from whole table entries.

    Args:
        table: (entries, features) or (B, entries, features).
        gain: (levels,) what a table entry is worth in inputs, a level.
        rows, columns: plans of B grids (`grid.plan_axis`).
    """
    sums = encode_grid(table, config.grid, rows, columns)
    gains = (gain / (FRACTION * FRACTION)).repeat_interleave(config.features)[:, None, None]
    scaled = sums * gains
    if exact:
        return scaled.round().clamp_(-ACTIVATION_MAX, ACTIVATION_MAX)
    return round_through(scaled.clamp(-ACTIVATION_MAX, ACTIVATION_MAX))


class IntegerField:
    """A slide's frozen network, ready to decode tiles.

    Args:
        config: the model's config.
        tile_px: side of a tile, the grid's `chunk_px`.
        tensors: the file's weights: `NAME.weight` int8 or int16, `NAME.multiplier` fp32, `table.gain` fp32.
        device: where to compute.
    """

    def __init__(
        self, config: CinrConfig, tile_px: int, tensors: Mapping[str, np.ndarray], device: torch.device
    ) -> None:
        self.config, self.tile_px, self.device = config, tile_px, device
        self.gain = torch.from_numpy(np.array(tensors["table.gain"])).to(device)
        self.layers: dict[str, tuple[Tensor, Tensor]] = {}
        for name in config.weight_shapes():
            weight = torch.from_numpy(np.array(tensors[f"{name}.weight"])).to(torch.float64)
            # |sum| <= sum of |weight| times the largest input; in fp32 only where that cannot reach 2^24
            bound = weight.abs().sum(dim=(1, 2, 3)).max().item() * RELU_MAX
            dtype = torch.float32 if bound < 2**24 else torch.float64
            multiplier = torch.from_numpy(np.array(tensors[f"{name}.multiplier"]))
            self.layers[name] = (weight.to(device, dtype), multiplier.to(device))

    @torch.inference_mode()
    def block(self, table: Tensor, block_xy: tuple[int, int], block_wh: tuple[int, int], finer: int = 1) -> np.ndarray:
        """Decode a block of a tile.

        Args:
            table: (entries, features) fp32 whole numbers, on the field's device.
            block_xy: the block's first pixel, from the tile's corner.
            block_wh: its size in pixels.
            finer: samples a pixel along each axis: the field between the pixels.

        Returns:
            (h * finer, w * finer, channels) uint8.
        """
        halo = HALO_PX * finer
        columns, rows = (
            plan_axis(self.config.grid, tile_positions(self.tile_px, at * finer - halo, size * finer + 2 * halo, finer))
            for at, size in zip(block_xy, block_wh, strict=True)
        )
        x = features(table, self.config, self.gain, [rows], [columns])
        y = forward(self.layers, x, dilation=finer)
        return y[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
