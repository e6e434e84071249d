"""The integer networks of model `octaves` on a CPU: convolutions by torch, everything between them in one pass.

The same integers as `octaves_integer`, which other devices use, in half the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.coding import lifting, rescale, sites
from inrwsi.fields.octaves_bytes import ByteLayer, exact
from inrwsi.fields.octaves_integer import (
    MEAN_MAX,
    PASSES,
    PIXEL_OUT_MAX,
    SCALE_OFFSET,
    SCALES,
    WHOLE,
    Coder,
    IntegerNet,
    layer_shapes,
    pass_taps,
)
from inrwsi.fields.octaves_model import USUAL_LEAST, Decoded

_Weights = Mapping[str, Tensor]

FEW_SITES = 400  # of which fp32 takes less time than bf16's set-up; bf16 products below 4096 are another library's


class FusedNet(IntegerNet):
    """An `IntegerNet` for the CPU.

    Args:
        fast: convolve in bf16; chosen by `fast_bf16` where the machine is fast at it. The result is the same.
        in_bytes: use convolutions of 8-bit numbers where this machine has them (`octaves_bytes`); as `fast` by default.
            The result is the same.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        step: int,
        device: torch.device,
        *,
        fast: bool,
        active: int = 0,
        least: int = USUAL_LEAST,
        in_bytes: bool | None = None,
    ) -> None:
        super().__init__(tensors, step, device, active=active, least=least)
        self._dtype = torch.bfloat16 if fast else torch.float32
        self._bytes = _in_bytes(tensors) if (fast if in_bytes is None else in_bytes) else {}
        self._typed = {dtype: self._weights_as(dtype) for dtype in {self._dtype, torch.float32}}
        self._scaling = {
            name: (layer.bias.view(-1).numpy(), layer.scale.view(-1).numpy()) for name, layer in self._layers.items()
        }

    def _weights_as(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Of each layer: as a convolution takes them; of 1 x 1, as a matrix product, which takes less to set up."""
        typed = {
            name: layer.weight.to(dtype, memory_format=torch.channels_last) for name, layer in self._layers.items()
        }
        return {name: w if w.shape[-1] > 1 else w[:, :, 0, 0].t().contiguous() for name, w in typed.items()}

    @torch.inference_mode()
    def run(
        self, below: np.ndarray, features: np.ndarray, coder: Coder, *, hand_up: bool, spacing: int = WHOLE
    ) -> Decoded:
        """As `IntegerNet.run`."""
        _, h, w = below.shape
        weights = self._typed[torch.float32 if h * w <= FEW_SITES else self._dtype]
        steps, logs = self.at_sites(below)
        x = rescale.padded(sites.trunk_inputs(below, features, steps, logs))
        x = rescale.relu_padded(self._sums(weights, "trunk1", x), *self._scaling["trunk1"])
        at = rescale.relu_at_sites(self._sums(weights, "trunk2", x), *self._scaling["trunk2"])
        values = np.zeros((9, h, w), np.int32)
        seen = np.zeros((h + 2 * rescale.PAD, w + 2 * rescale.PAD, 9), np.uint16)
        for number, (first, bands, white, _, _) in enumerate(PASSES):
            means, scales = self._pass(weights, number, at[int(white)], seen)
            symbols = coder(number, means.reshape(-1), scales.reshape(-1))
            shape = (2, h // 2, w // 2, bands)
            rescale.place(values, seen, symbols.reshape(shape), means.reshape(shape), first, white, spacing)
        return self._pixels(weights, at, below, values, seen, steps, hand_up=hand_up)

    def _sums(self, weights: _Weights, name: str, x: np.ndarray) -> np.ndarray:
        """A layer's sums in uint16: (n, C') of (n, C), or (h - 2, w - 2, C') of (h, w, C) by a convolution of 3 x 3."""
        layer = self._bytes.get(name)
        if layer is not None and x.shape in layer.shapes:
            total = layer.sums(x)
        else:
            given = torch.from_numpy(x) if x.dtype == np.uint8 else torch.from_numpy(x).view(torch.bfloat16)
            typed = given.to(weights[name].dtype)
            two = x.ndim == 2
            total = torch.mm(typed, weights[name]) if two else F.conv2d(typed.permute(2, 0, 1)[None], weights[name])
        if x.ndim == 3:
            total = total[0].permute(1, 2, 0).contiguous()
        return total.bfloat16().view(torch.uint16).numpy()

    def _pass(self, weights: _Weights, number: int, at: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means (n, bands) int32 and scale indices uint8 of a pass, at its sites."""
        name, white = f"heads.{number}", PASSES[number][2]
        scaling = self._scaling[f"{name}.features"]
        total = self._sums(weights, f"{name}.features", _flat(at))
        if number:
            near = _flat(sites.near_inputs(seen, rescale.PAD, _taps(number), white))
            x = rescale.relu_of_two(total, self._sums(weights, f"{name}.neighbours", near), *scaling)
        else:
            x = rescale.relu(total, *scaling)
        x = rescale.relu(self._sums(weights, f"{name}.hidden", x), *self._scaling[f"{name}.hidden"])
        out = self._sums(weights, f"{name}.out", x)
        return rescale.means_and_scales(out, *self._scaling[f"{name}.out"], MEAN_MAX, SCALE_OFFSET, SCALES)

    def _pixels(
        self,
        weights: _Weights,
        at: np.ndarray,
        below: np.ndarray,
        values: np.ndarray,
        seen: np.ndarray,
        steps: np.ndarray,
        *,
        hand_up: bool,
    ) -> Decoded:
        squeezed = self._sums(weights, "squeeze", _flat(at)).reshape(*at.shape[:-1], -1)
        x = rescale.synthesis_inputs(squeezed, *self._scaling["squeeze"], seen)
        x = rescale.relu_padded(self._sums(weights, "synthesis1", x), *self._scaling["synthesis1"])
        x = rescale.relu(_flat(self._sums(weights, "synthesis2", x)), *self._scaling["synthesis2"])
        out = self._sums(weights, "pixels", x).reshape(*steps.shape, -1)
        residual = rescale.residual_pixels(out, *self._scaling["pixels"], PIXEL_OUT_MAX, steps)
        pixels = lifting.inverse97(below, sites.dequantise(values, self._inverse, steps), residual)
        if not hand_up:
            return Decoded(pixels, None)
        up = self._sums(weights, "up", x).reshape(*steps.shape, -1)
        return Decoded(pixels, rescale.shuffled_features(up, *self._scaling["up"]))


def _in_bytes(tensors: Mapping[str, np.ndarray]) -> dict[str, ByteLayer]:
    """Of each layer whose inputs are activations alone; none where this machine has no such layers."""
    held = [name for name in layer_shapes() if not name.endswith(("trunk1", "synthesis1", "neighbours"))]
    weights = {name: tensors[f"{name}.weight"] for name in held}
    here = all(exact(weight.shape[:3]) for weight in weights.values())
    return {name: ByteLayer(weight) for name, weight in weights.items()} if here else {}


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


@lru_cache
def _taps(number: int) -> np.ndarray:
    """`pass_taps` about a site with PAD sites about the chunk, where the pass's own kernel has fewer."""
    taps = pass_taps(number).copy()
    taps[:, :2] += rescale.PAD - PASSES[number][4] // 2
    return taps
