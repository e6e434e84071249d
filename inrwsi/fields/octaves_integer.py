"""The networks of model `octaves` in integers: what files are coded with, both ways.

Activations are whole numbers from 0 to 255 (inputs from -255 to 255), weights from -127 to 127; a layer's sums stay
below 2^24, so a direct convolution of them in fp32, or in bf16 with fp32 sums, is exact in any order. A sum is then
rounded to eight significant bits (bfloat16, half to even): that is what a bf16 convolution hands over anyway, where the
machine has fast ones, and costs one instruction where it has not. Rescaling is an addition and a power of two, both
exact. So the same file gives the same integers on every CPU, GPU and thread count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from inrwsi.coding import lifting, sites
from inrwsi.fields import whole_sums
from inrwsi.fields.octaves_model import FEATURES, OWN_STEP_UNIT, USUAL_LEAST, Decoded

WIDTH, HEAD_WIDTH, SQUEEZE = 32, 32, 10
NETS = 4
SCALES = 64
WHOLE = 16  # a unit, in the fixed point of coefficients and means
MEAN_MAX = 127 * WHOLE
SCALE_OFFSET = 33
PIXEL_OUT_MAX = 2**15
FACTOR_UNIT = 4096
MAX_SUM = 2**24
PASSES = ((0, 3, False, 0, 0), (0, 3, True, 3, 5), (3, 6, False, 3, 3), (3, 6, True, 9, 3))
"""Of each pass: first band, bands, at the white sites?, bands it sees, kernel it sees them through."""

Coder = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
"""(pass, means (n,) int32, scale indices (n,) uint8) -> symbols (n,) int32; a read or a choice."""


def layer_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Every convolution of a net: name to (out, in, kernel, kernel)."""
    shapes = {
        "trunk1": (WIDTH, 6 + FEATURES + 2, 3, 3),
        "trunk2": (WIDTH, WIDTH, 3, 3),
        "squeeze": (SQUEEZE, WIDTH, 1, 1),
        "synthesis1": (WIDTH, SQUEEZE + 9, 3, 3),
        "synthesis2": (WIDTH, WIDTH, 3, 3),
        "pixels": (12, WIDTH, 1, 1),
        "up": (4 * FEATURES, WIDTH, 1, 1),
    }
    for number, (_, bands, _, seen, kernel) in enumerate(PASSES):
        shapes[f"heads.{number}.features"] = (HEAD_WIDTH, WIDTH, 1, 1)
        if seen:
            shapes[f"heads.{number}.neighbours"] = (HEAD_WIDTH, seen, kernel, kernel)
        shapes[f"heads.{number}.hidden"] = (HEAD_WIDTH, HEAD_WIDTH, 1, 1)
        shapes[f"heads.{number}.out"] = (2 * bands, HEAD_WIDTH, 1, 1)
    return shapes


def net_tensors() -> dict[str, tuple[tuple[int, ...], str]]:
    """Every tensor of one net: name to (shape, dtype). `neighbours` share bias and shift of `features`."""
    tensors: dict[str, tuple[tuple[int, ...], str]] = {"inverse_factor": ((9,), "int32")}
    for name, shape in layer_shapes().items():
        tensors[f"{name}.weight"] = (shape, "int8")
        if not name.endswith("neighbours"):
            tensors[f"{name}.bias"] = (shape[:1], "int32")
            tensors[f"{name}.shift"] = (shape[:1], "int8")
    return tensors


def octave_step(step: int, octave: int, own_step: int = OWN_STEP_UNIT, least: int = USUAL_LEAST) -> int:
    """The step of an octave, in 1 / 1024 grey level of its own pixels.

    Args:
        own_step: the model's for the octave.
        least: the model's least step of an octave.
    """
    return max(step * own_step // OWN_STEP_UNIT >> octave, least)


def site_steps(step: int, active: int, least: int = USUAL_LEAST) -> np.ndarray:
    """(n,) int32: what the step of an octave becomes at sites of each index of activity; it doubles in `active`."""
    factors = np.array(sites.STEP_FACTORS[active], np.int64)
    return np.maximum(step * factors // sites.STEP_FACTOR_UNIT, least).astype(np.int32)


def net_of(octave: int) -> int:
    """Which net codes an octave: the coarser ones share the last."""
    return min(octave, NETS - 1)


@dataclass(frozen=True)
class _Layer:
    weight: Tensor
    bias: Tensor
    scale: Tensor


class IntegerNet:
    """One net at one step.

    Args:
        tensors: as `net_tensors` lists them.
        step: of the octave, in 1 / 1024 grey level.
        active: in how many indices of activity about a site its step doubles; 0, it is the same everywhere.
        least: the model's least step of an octave.
        device: where to compute.

    Raises:
        ValueError: a weight, bias or shift with which sums could leave 24 bits.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        step: int,
        device: torch.device,
        *,
        active: int = 0,
        least: int = USUAL_LEAST,
    ) -> None:
        check_net(tensors)
        self._device, self._active = device, active
        self._inverse = tensors["inverse_factor"].astype(np.int64)
        self._steps = site_steps(step, active, least) if active else np.array([step], np.int32)
        logs = np.array([sites.step_logs(int(s)) for s in self._steps], np.int64)
        self._logs = logs.clip(-sites.SEEN_MAX, sites.SEEN_MAX).astype(np.int16)
        self._layers = {}
        for name in layer_shapes():
            weight = tensors[f"{name}.weight"]
            if name.endswith("neighbours"):
                parts = [weight[:, a:b, y, x] for y, x, a, b in pass_taps(int(name.split(".")[1]))]
                gathered = np.concatenate(parts, 1)[:, :, None, None]
                self._layers[name] = _Layer(self._weight(gathered), torch.empty(0), torch.empty(0))
                continue
            bias = tensors[f"{name}.bias"].astype(np.int64)
            if name == "trunk1" and not active:  # the step's logarithm is the same everywhere: it belongs to the bias
                bias = bias + weight[:, -2:].astype(np.int64).sum((2, 3)) @ logs[0]
                weight = weight[:, :-2]
            shift = 2.0 ** -tensors[f"{name}.shift"].astype(np.float64)
            self._layers[name] = _Layer(
                self._weight(weight), self._column(bias.astype(np.float64)), self._column(shift)
            )

    def _weight(self, weight: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(weight)).to(self._device, torch.float32)

    def _column(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self._device).view(1, -1, 1, 1)

    def _sum(self, name: str, x: Tensor) -> Tensor:
        """A convolution without padding, rounded to eight significant bits: whole numbers in fp32."""
        return whole_sums.convolve(x, self._layers[name].weight).bfloat16().float()

    def _rescale(self, name: str, total: Tensor, low: float, high: float) -> Tensor:
        layer = self._layers[name]
        return total.add_(layer.bias).mul_(layer.scale).round_().clamp_(low, high)

    def _relu(self, name: str, x: Tensor) -> Tensor:
        return self._rescale(name, self._sum(name, x), 0.0, 255.0)

    def _tensor(self, interleaved: np.ndarray) -> Tensor:
        """([B,] h, w, C) float32 to (B, C, h, w); B is 1 where it is not there."""
        batch = interleaved.reshape(-1, *interleaved.shape[-3:])
        return torch.from_numpy(batch).to(self._device, torch.float32).permute(0, 3, 1, 2)

    @staticmethod
    def _array(x: Tensor) -> np.ndarray:
        """(B, C, h, w) to (B, h, w, C) float32 in memory order."""
        return x.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def at_sites(self, below: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The step of each site, (h, w) int32 in 1 / 1024 grey level, and what the trunk is told of it, (h, w, 0 or 2).

        Args:
            below: (3, h, w) int16, the decoded octave below.
        """
        _, h, w = below.shape
        if not self._active:
            return np.full((h, w), self._steps[0]), np.empty((h, w, 0), np.int16)
        index = sites.activity(below[0], np.array(sites.ACTIVITY_FLOORS, np.int64))
        return self._steps[index], self._logs[index]

    @torch.inference_mode()
    def run(
        self, below: np.ndarray, features: np.ndarray, coder: Coder, *, hand_up: bool, spacing: int = WHOLE
    ) -> Decoded:
        """Code an octave of a chunk: the same for the reading and the writing of it.

        Args:
            below: (3, h, w) int16, the decoded octave below; h and w even.
            features: (FEATURES, h, w) uint8, what it handed up.
            coder: gives each pass's symbols.
            hand_up: compute the features of this octave.
            spacing: what a symbol of 1 stands for, in 1 / 16 unit.

        Returns:
            The chunk at (2 h, 2 w).
        """
        _, h, w = below.shape
        steps, logs = self.at_sites(below)
        rows = torch.from_numpy(sites.trunk_inputs(below, features, steps, logs))
        x = rows.to(self._device, torch.float32).permute(1, 0, 2)[None]
        trunk = self._relu("trunk2", _replicate(self._relu("trunk1", _replicate(x))))
        at = (_sites(trunk, False), _sites(trunk, True))
        values = np.zeros((h, w, 9), np.int32)
        for number, (first, bands, white, seen, kernel) in enumerate(PASSES):
            mean, scale = self._head(number, at[white], values, seen, kernel, white, bands)
            symbols = coder(number, mean.reshape(-1), scale.reshape(-1))
            sites.place(values, symbols.reshape(mean.shape), mean, first, white, spacing)
        return self._synthesise(trunk, below, values, steps, hand_up=hand_up)

    def _head(
        self, number: int, at: Tensor, values: np.ndarray, seen: int, kernel: int, white: bool, bands: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means (2, h/2, w/2, bands) int32 in 1 / 16 unit and scale indices uint8 of a pass."""
        name = f"heads.{number}"
        total = self._sum(f"{name}.features", at)
        if seen:
            padded = sites.seen_inputs(values, 0, seen, kernel // 2)
            near = sites.near_inputs(padded, kernel // 2, pass_taps(number), white)
            total += self._sum(f"{name}.neighbours", self._tensor(near))
        hidden = self._rescale(f"{name}.features", total, 0.0, 255.0)
        hidden = self._relu(f"{name}.hidden", hidden)
        out = self._array(self._rescale(f"{name}.out", self._sum(f"{name}.out", hidden), -MEAN_MAX, MEAN_MAX))
        mean = out[..., :bands].astype(np.int32)
        scale = np.clip(out[..., bands:] + SCALE_OFFSET, 0, SCALES - 1).astype(np.uint8)
        return mean, scale

    def _synthesise(
        self, trunk: Tensor, below: np.ndarray, values: np.ndarray, steps: np.ndarray, *, hand_up: bool
    ) -> Decoded:
        seen = self._tensor(sites.seen_inputs(values, 0, 9, 0))
        x = torch.cat((self._relu("squeeze", trunk), seen), 1)
        x = self._relu("synthesis2", _replicate(self._relu("synthesis1", _replicate(x))))
        out = self._rescale("pixels", self._sum("pixels", x), -PIXEL_OUT_MAX, PIXEL_OUT_MAX)
        residual = sites.residual_pixels(self._array(out)[0], steps)
        bands = np.ascontiguousarray(values.transpose(2, 0, 1))
        pixels = lifting.inverse97(below, sites.dequantise(bands, self._inverse, steps), residual)
        if not hand_up:
            return Decoded(pixels, None)
        up = self._rescale("up", self._sum("up", x), 0.0, 255.0)
        return Decoded(pixels, sites.shuffle_features(self._array(up)[0]))


def _replicate(x: Tensor) -> Tensor:
    x = torch.cat((x[..., :1, :], x, x[..., -1:, :]), -2)
    return torch.cat((x[..., :1], x, x[..., -1:]), -1)


def _sites(x: Tensor, white: bool) -> Tensor:
    """The black or white sites of (1, C, h, w): (2, C, h/2, w/2)."""
    return torch.cat((x[:, :, 0::2, int(white) :: 2], x[:, :, 1::2, int(not white) :: 2]))


@lru_cache
def pass_taps(number: int) -> np.ndarray:
    """What pass `number` sees, as `sites.near_inputs` takes it: of its own bands only what the pass before it placed.

    All else is zero. To gather the rest and convolve it by 1 x 1 takes half the multiplications of a convolution with
    stride 2, and none of that: oneDNN's in bf16 goes wrong where its output is one column wide (torch 2.13, AMX).
    """
    first, _, white, seen, kernel = PASSES[number]
    taps = []
    for y in range(kernel):
        for x in range(kernel):
            other_colour = (y + x - 2 * (kernel // 2)) % 2 == 1
            taps.append((y, x, 0, seen if white and other_colour else min(seen, first)))
    return np.array([tap for tap in taps if tap[3]], np.int64)


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 convolutions pay here: a chunk takes half the time. It changes the time, never the result."""
    if device.type != "cpu":
        return False
    probes = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("amx_tile", "avx512_bf16"))
    return any(probe() for probe in probes if probe)


def check_net(tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless every sum of the net stays below 2^24, whatever the inputs."""
    for name in layer_shapes():
        if name.endswith("neighbours"):
            continue
        weights = [tensors[f"{name}.weight"]]
        near = name.replace("features", "neighbours")
        if near != name and f"{near}.weight" in tensors:
            weights.append(tensors[f"{near}.weight"])
        # 256, not 255: rounding to eight bits may add one part in 256, and sum and bias must still be exact.
        total = sum(np.abs(w.astype(np.int64)).sum((1, 2, 3)) for w in weights) * 256
        total = total + np.abs(tensors[f"{name}.bias"].astype(np.int64))
        if total.max() >= MAX_SUM:
            raise ValueError(f"the sums of {name} reach {total.max()}, should stay below {MAX_SUM}")
        shift = tensors[f"{name}.shift"]
        if shift.min() < 0 or shift.max() > 24:
            raise ValueError(f"a shift of {name} is {shift.min()} or {shift.max()}, should be from 0 to 24")
    inverse = tensors["inverse_factor"]
    if inverse.min() < 1 or inverse.max() > 64 * FACTOR_UNIT:
        raise ValueError(
            f"inverse_factor is {inverse.min()} or {inverse.max()}, should be from 1 to {64 * FACTOR_UNIT}"
        )
