"""The integer networks of model `octaves` on a CPU: convolutions by torch, everything between them in one pass.

The same integers as `octaves_integer`, which other devices use, in half the time.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.coding import lifting, rescale, sites
from inrwsi.fields.octaves_integer import (
    MEAN_MAX,
    PASSES,
    PIXEL_OUT_MAX,
    SCALE_OFFSET,
    SCALES,
    Coder,
    IntegerNet,
    pass_taps,
)
from inrwsi.fields.octaves_model import Decoded


class FusedNet(IntegerNet):
    """An `IntegerNet` for the CPU."""

    @torch.inference_mode()
    def run(self, below: np.ndarray, features: np.ndarray, coder: Coder, *, hand_up: bool) -> Decoded:
        """As `IntegerNet.run`."""
        _, h, w = below.shape
        steps, logs = self.at_sites(below)
        x = rescale.padded(sites.trunk_inputs(below, features, steps, logs))
        x = rescale.relu_padded(self._bits("trunk1", x), *self._scaling("trunk1"))
        at = rescale.relu_at_sites(self._bits("trunk2", x), *self._scaling("trunk2"))
        values = np.zeros((h, w, 9), np.int32)
        for number, (first, bands, white, seen, kernel) in enumerate(PASSES):
            means, scales = self._pass(number, at[int(white)], values, seen, kernel, white)
            symbols = coder(number, means.reshape(-1), scales.reshape(-1))
            shape = (2, h // 2, w // 2, bands)
            sites.place(values, symbols.reshape(shape), means.reshape(shape), first, white)
        return self._pixels(at, below, values, steps, hand_up=hand_up)

    def _pass(
        self, number: int, at: np.ndarray, values: np.ndarray, seen: int, kernel: int, white: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means (n, bands) int32 and scale indices uint8 of a pass, at its sites."""
        name = f"heads.{number}"
        bias, scale = self._scaling(f"{name}.features")
        total = _flat(self._bits(f"{name}.features", at))
        if seen:
            padded = rescale.seen(values, seen, kernel // 2, sites.SEEN_MAX)
            near = sites.near_inputs(padded, kernel // 2, pass_taps(number), white)
            x = rescale.relu_of_two(total, _flat(self._bits(f"{name}.neighbours", near)), bias, scale)
        else:
            x = rescale.relu(total, bias, scale)
        shape = (*at.shape[:-1], x.shape[1])
        hidden = _flat(self._bits(f"{name}.hidden", x.reshape(shape)))
        x = rescale.relu(hidden, *self._scaling(f"{name}.hidden"))
        out = _flat(self._bits(f"{name}.out", x.reshape(shape)))
        return rescale.means_and_scales(out, *self._scaling(f"{name}.out"), MEAN_MAX, SCALE_OFFSET, SCALES)

    def _pixels(
        self, at: np.ndarray, below: np.ndarray, values: np.ndarray, steps: np.ndarray, *, hand_up: bool
    ) -> Decoded:
        squeezed = self._bits("squeeze", at.reshape(4, *at.shape[2:])).reshape(*at.shape[:-1], -1)
        x = rescale.synthesis_inputs(squeezed, *self._scaling("squeeze"), values, sites.SEEN_MAX)
        x = rescale.relu_padded(self._bits("synthesis1", x), *self._scaling("synthesis1"))
        total = self._bits("synthesis2", x)
        x = rescale.relu(_flat(total), *self._scaling("synthesis2")).reshape(total.shape)
        out = self._bits("pixels", x)
        residual = rescale.residual_pixels(out, *self._scaling("pixels"), PIXEL_OUT_MAX, steps)
        pixels = lifting.inverse97(below, sites.dequantise(values, self._inverse, steps), residual)
        if not hand_up:
            return Decoded(pixels, None)
        return Decoded(pixels, rescale.shuffled_features(self._bits("up", x), *self._scaling("up")))

    def _scaling(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        layer = self._layers[name]
        return layer.bias.view(-1).numpy(), layer.scale.view(-1).numpy()

    def _bits(self, name: str, x: np.ndarray) -> np.ndarray:
        """A convolution without padding of ([B,] h, w, C) uint16: its sums ([B,] h', w', C') uint16."""
        batch = torch.from_numpy(x.reshape(-1, *x.shape[-3:])).view(torch.bfloat16).permute(0, 3, 1, 2)
        total: Tensor = F.conv2d(batch.to(self._dtype), self._layers[name].weight).bfloat16()
        found = total.permute(0, 2, 3, 1).contiguous().view(torch.uint16).numpy()
        return found if x.ndim == 4 else found[0]


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])
