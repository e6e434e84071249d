"""Fitting the paper's model: one network a slide, then one table a tile under the frozen network.

The network is fitted together with the tables of a sample of tissue tiles, first in floats, then on the rounded numbers
that the file will hold (quantisation-aware, straight-through). Then it is frozen, and every tile's table is fitted
alone to the integers that `fields.cinr` decodes: tiles are independent, so any number of them streams through bounded
memory, in any order, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields import cinr
from inrwsi.fields.cinr import ACTIVATION_MAX, BLOCK_PX, HALO_PX, RELU_MAX, SINE_STEPS, CinrConfig
from inrwsi.fields.grid import Axis, plan_axis
from inrwsi.fields.networks import DualFlowNet
from inrwsi.fit.start import pyramid_start

PATCH_PX = BLOCK_PX
STRIDE = 0.8  # of a patch: the reference's 20 % overlap
FLOAT_SHARE = 0.6  # of the network's steps, before rounding begins
TILE_LR = 3e-2  # of a tile's table alone, whose whole range is -1..1
GLASS_EVERY = 5
SPARSITY = 5e-3  # worth of a table entry's size against squared error: small entries are cheap to store
NOISE = 0.02  # added to the start, so that no two features stay alike
FINAL_LR = 0.05  # of the first
CLIP_RMS = {4: 2.5, 6: 3.5, 8: 5.0}  # table entries beyond this many rms saturate


@dataclass(frozen=True)
class Schedule:
    """Learning rates of the joint fit, which begins in floats.

    Attributes:
        table, sine, mlp: first learning rates of the tables, the sine layers (whose step is multiplied by omega and by
            hundreds of inputs) and the MLPs.
        constant: keep them, instead of a warm-up and a cosine to `FINAL_LR` of them.
        pyramid: start the tables from the tiles themselves instead of noise.
    """

    table: float = 1e-2
    sine: float = 2e-4
    mlp: float = 1e-3
    constant: bool = False
    pyramid: bool = True


REFERENCE_SCHEDULE = Schedule(table=1e-5, sine=1e-5, mlp=1e-5, constant=True, pyramid=False)


@dataclass(frozen=True)
class Patch:
    """A square of a tile to fit: which tile of the batch, its corner and its size in pixels."""

    tile: int
    x: int
    y: int
    w: int
    h: int


def patch_grid(wh: tuple[int, int], tile: int, rng: np.random.Generator) -> list[Patch]:
    """One pass over a tile: patches `STRIDE` apart, the whole grid jittered, every pixel covered."""
    w, h = min(PATCH_PX, wh[0]), min(PATCH_PX, wh[1])
    return [Patch(tile, x, y, w, h) for y in _starts(wh[1], h, rng) for x in _starts(wh[0], w, rng)]


def _starts(length: int, patch: int, rng: np.random.Generator) -> list[int]:
    if length == patch:
        return [0]
    stride = int(PATCH_PX * STRIDE)
    first = -int(rng.integers(0, stride))
    return sorted({min(max(s, 0), length - patch) for s in range(first, length, stride)})


def batches(patches: Sequence[Patch], size: int, rng: np.random.Generator) -> Iterator[list[Patch]]:
    """The patches in random order, `size` at a time, equal shapes together."""
    order = rng.permutation(len(patches))
    shapes = sorted({(p.w, p.h) for p in patches})
    for shape in shapes:
        alike = [patches[i] for i in order if (patches[i].w, patches[i].h) == shape]
        for i in range(0, len(alike), size):
            yield alike[i : i + size]


@lru_cache(maxsize=1024)
def _plan(config: CinrConfig, tile_px: int, start: int, size: int) -> list[Axis]:
    positions = cinr.tile_positions(tile_px, start - HALO_PX, size + 2 * HALO_PX)
    return plan_axis(config.grid, positions)


def plans(config: CinrConfig, tile_px: int, batch: Sequence[Patch]) -> tuple[list[list[Axis]], list[list[Axis]]]:
    """Row and column plans of the patches with their halo."""
    rows = [_plan(config, tile_px, p.y, p.h) for p in batch]
    columns = [_plan(config, tile_px, p.x, p.w) for p in batch]
    return rows, columns


def targets(tiles: Sequence[np.ndarray], batch: Sequence[Patch], device: torch.device) -> Tensor:
    """(B, channels, h, w) fp32 samples 0..255 of the patches."""
    cut = np.stack([tiles[p.tile][p.y : p.y + p.h, p.x : p.x + p.w] for p in batch])
    return torch.from_numpy(cut).to(device).permute(0, 3, 1, 2).float()


def cosine(step: int, steps: int) -> float:
    """Share of the first learning rate at `step`: a cosine from 1 to FINAL_LR, after a short warm-up."""
    warm = max(1, min(20, steps // 10))
    if step < warm:
        return (step + 1) / warm
    t = (step - warm) / max(1, steps - warm)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * t))


class NetworkFit:
    """The joint fit of the network and the tables of the sample tiles.

    Args:
        tiles: (h, w, channels) uint8 each.
        steps: in all; `batch` patches each.
    """

    def __init__(
        self,
        config: CinrConfig,
        tile_px: int,
        tiles: Sequence[np.ndarray],
        *,
        steps: int,
        batch: int,
        seed: int,
        device: torch.device,
        schedule: Schedule = Schedule(),
    ) -> None:
        self.config, self.tile_px, self.tiles, self.schedule = config, tile_px, tiles, schedule
        self.steps, self.batch, self.seed, self.device = steps, batch, seed, device
        generator = torch.Generator().manual_seed(seed)
        self.net = DualFlowNet(config.network, generator).to(device)
        starts = torch.zeros(len(tiles), config.grid.entry_count, config.features)
        if schedule.pyramid:
            starts = torch.from_numpy(np.stack([pyramid_start(config, tile_px, t) for t in tiles]))
        noise = (torch.rand(starts.shape, generator=generator) * 2 - 1) * NOISE
        self.tables = (starts + noise).to(device).requires_grad_()
        self.optimiser = torch.optim.Adam(
            [
                {"params": [self.tables], "base": schedule.table},
                {"params": self._weights("sine"), "base": schedule.sine},
                {"params": self._weights("relu") + self._weights("linear"), "base": schedule.mlp},
            ],
            betas=(0.9, 0.99),
            eps=1e-12,
        )
        self.step_number = 0
        self.rounding_from = int(steps * FLOAT_SHARE)
        self.out_scale: dict[str, float] = {}
        self.level_scale: list[float] = []
        self._queue: list[list[Patch]] = []
        self._pass = 0

    def _weights(self, activation: str) -> list[Tensor]:
        return [self.net.get_submodule(x.name).weight for x in self.net.layers if x.activation == activation]

    @property
    def quantised(self) -> bool:
        return bool(self.out_scale)

    def step(self) -> tuple[int, float]:
        """One step of Adam. Returns the pixels fitted and the batch's mean squared error (of samples 0..255)."""
        if not self.quantised and self.step_number >= self.rounding_from:
            self._begin_rounding()
        batch = self._next_batch()
        share = 1.0 if self.schedule.constant else cosine(self.step_number, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * share
        y = self._forward(batch)
        loss = torch.mean((y - targets(self.tiles, batch, self.device)) ** 2)
        self.optimiser.zero_grad(set_to_none=True)
        (loss / 127.5**2).backward()
        self.optimiser.step()
        if self.quantised:
            with torch.no_grad():
                self.tables.clamp_(-1, 1)
        self.step_number += 1
        return sum(p.w * p.h for p in batch), float(loss.detach())

    def _next_batch(self) -> list[Patch]:
        if not self._queue:
            rng = np.random.default_rng([self.seed, self._pass])
            patches = [p for i, t in enumerate(self.tiles) for p in patch_grid((t.shape[1], t.shape[0]), i, rng)]
            self._queue = list(batches(patches, self.batch, rng))
            rng.shuffle(self._queue)
            self._pass += 1
        return self._queue.pop()

    def _forward(self, batch: Sequence[Patch]) -> Tensor:
        rows, columns = plans(self.config, self.tile_px, batch)
        which = torch.tensor([p.tile for p in batch], device=self.device)
        tables = self.tables[which]
        if self.quantised:
            whole = cinr.round_through(tables * self.config.table_max)
            x = cinr.features(whole, self.config, self._gain(), rows, columns, exact=False)
            return cinr.forward(quantise(self.net, self.config, self.out_scale), x, exact=False)
        x = cinr.encode_grid(tables, self.config.grid, rows, columns) / cinr.FRACTION**2
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            y = self.net(x)
        return (y.float() + 1) * 127.5

    def _gain(self) -> Tensor:
        return torch.full((self.config.levels,), ACTIVATION_MAX / self.config.table_max, device=self.device)

    @torch.no_grad()
    def _begin_rounding(self) -> None:
        """Give every level its scale, fold it into the first layers, and measure the activations' ranges."""
        grid = self.config.grid
        for level in grid.layout():
            part = self.tables[:, level.offset : level.offset + level.entries]
            scale = float(part.square().mean().sqrt()) * CLIP_RMS[self.config.table_bits]
            scale = max(min(scale, float(part.abs().max())), 1e-6)
            part.div_(scale).clamp_(-1, 1)
            self.level_scale.append(scale)
        scales = torch.tensor(self.level_scale, device=self.device)
        fold = scales.repeat_interleave(self.config.features)[None, :, None, None]
        for name in ("mlp1.0", "cnn1.0"):
            self.net.get_submodule(name).weight.mul_(fold)
        self.optimiser.state.clear()
        self.out_scale = self._measure_activations()

    def _measure_activations(self) -> dict[str, float]:
        """What one unit of each ReLU and linear layer's whole output is worth, from a batch in floats."""
        peaks: dict[str, float] = {}

        def watch(name: str) -> Any:
            def hook(_module: Any, _args: Any, out: Tensor) -> None:
                peak = out.clamp_min(0) if cinr.KINDS[name] == "relu" else out.abs()
                peaks[name] = max(peaks.get(name, 0.0), float(peak.max()))

            return hook

        names = [n for n, kind in cinr.KINDS.items() if kind != "sine"]
        handles = [self.net.get_submodule(n).register_forward_hook(watch(n)) for n in names]
        for _ in range(4):
            self._forward(self._next_batch())
        for handle in handles:
            handle.remove()
        top = {"relu": RELU_MAX, "linear": ACTIVATION_MAX}
        return {n: max(peaks[n], 1e-6) / top[cinr.KINDS[n]] for n in names}

    @torch.no_grad()
    def frozen(self) -> dict[str, np.ndarray]:
        """The file's weights: the tensors that `cinr.IntegerField` takes."""
        dtype = torch.int8 if self.config.weight_bits == 8 else torch.int16
        tensors = {"table.gain": self._gain().cpu().numpy()}
        for name, (weight, multiplier) in quantise(self.net, self.config, self.out_scale).items():
            tensors[f"{name}.weight"] = weight.round().to(dtype).cpu().numpy()
            tensors[f"{name}.multiplier"] = multiplier.float().cpu().numpy()
        return tensors

    @torch.no_grad()
    def table(self, tile: int) -> np.ndarray:
        """The sample tile's table as it stands, (entries, features) fp32, -1..1 over the range of `table_bits`."""
        return self.tables[tile].cpu().numpy()

    def start(self, pixels: np.ndarray) -> np.ndarray:
        """Where the table of a tile outside the sample starts; as `table`."""
        table = pyramid_start(self.config, self.tile_px, pixels)
        for level, scale in zip(self.config.grid.layout(), self.level_scale, strict=True):
            table[level.offset : level.offset + level.entries] /= scale
        return table.clip(-1, 1)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Everything that `restore` needs to go on to the same bits: arrays, and JSON values."""
        tensors = {f"net.{name}": weight for name, weight in self.net.named_parameters()}
        tensors["tables"] = self.tables
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        queue = [[[p.tile, p.x, p.y, p.w, p.h] for p in batch] for batch in self._queue]
        meta = {"step": self.step_number, "pass": self._pass, "queue": queue, "out_scale": self.out_scale}
        meta["level_scale"] = self.level_scale
        return {name: t.detach().cpu().numpy() for name, t in tensors.items()}, meta

    @torch.no_grad()
    def restore(self, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> None:
        """Go on from `state`."""
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
        for name, weight in self.net.named_parameters():
            weight.copy_(tensors[f"net.{name}"])
        self.tables.copy_(tensors["tables"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("adam."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.step_number, self._pass = meta["step"], meta["pass"]
        self._queue = [[Patch(*p) for p in batch] for batch in meta["queue"]]
        self.out_scale, self.level_scale = meta["out_scale"], meta["level_scale"]


def quantise(net: DualFlowNet, config: CinrConfig, out_scale: dict[str, float]) -> dict[str, tuple[Tensor, Tensor]]:
    """The network on whole numbers: rounded weights, straight through, and the multiplier of each channel's sum.

    A layer's real weights times the worth of one unit of each input are scaled, an output channel at a time, to the
    whole range of `weight_bits`.
    """
    flow1, flow2 = out_scale["mlp1.2"], out_scale["mlp2.2"]
    sine = 1 / ACTIVATION_MAX
    worth: dict[str, float | tuple[float, float]] = {
        "mlp1.0": sine, "mlp1.1": out_scale["mlp1.0"], "mlp1.2": out_scale["mlp1.1"], "cnn1.0": sine, "cnn1.1": sine,
        "mlp2.0": flow1, "mlp2.1": out_scale["mlp2.0"], "mlp2.2": out_scale["mlp2.1"], "cnn2.0": (sine, flow1),
        "cnn2.1": sine, "last": (sine, flow2),
    }  # fmt: skip
    layers = {}
    for name, shape in config.weight_shapes().items():
        weight = net.get_submodule(name).weight
        unit = worth[name]
        if isinstance(unit, tuple):
            unit = weight.new_tensor(unit).repeat_interleave(config.width)[None, :, None, None]
        weight = weight.reshape(shape) * unit
        scale = weight.detach().abs().amax(dim=(1, 2, 3)).clamp_min(1e-12) / config.weight_max
        whole = cinr.round_through(weight / scale[:, None, None, None])
        to_next = net.config.omega * SINE_STEPS / (2 * math.pi) if cinr.KINDS[name] == "sine" else 1 / out_scale[name]
        layers[name] = (whole, scale * to_next)
    return layers


def _schedule(
    wh: tuple[int, int], passes: int, batch: int, seed: Sequence[int], busy: Callable[[Patch], bool]
) -> list[list[Patch]]:
    """All batches of a tile's fit. Patches without tissue take part in every `GLASS_EVERY`-th pass, from the first."""
    rng = np.random.default_rng(list(seed))
    schedule = []
    for number in range(passes):
        patches = patch_grid(wh, 0, rng)
        chosen = [p for p in patches if number % GLASS_EVERY == 0 or busy(p)]
        schedule += list(batches(chosen, batch, rng))
    return schedule


def fit_tile(
    field: cinr.IntegerField,
    pixels: np.ndarray,
    start: np.ndarray,
    *,
    passes: int,
    batch: int,
    seed: Sequence[int],
    busy: Callable[[Patch], bool] = lambda _: True,
) -> Iterator[tuple[int, float, np.ndarray | None]]:
    """Fit one tile's table under the frozen network.

    Args:
        pixels: (h, w, channels) uint8, the tile cut at the slide's edge.
        start: (entries, features) fp32 to start from, `NetworkFit.start` or `.table`.
        passes: over the tile's pixels.
        busy: whether a patch holds tissue.

    Yields:
        (pixels fitted, mean squared error, None) a step, and at the end (0, mse, table (entries, features) int8).
    """
    config, device = field.config, field.device
    table = torch.from_numpy(start).to(device).requires_grad_()
    optimiser = torch.optim.Adam([table], lr=TILE_LR, betas=(0.9, 0.99), eps=1e-12)
    schedule = _schedule((pixels.shape[1], pixels.shape[0]), passes, batch, seed, busy)
    mse = 0.0
    for step, chosen in enumerate(schedule):
        optimiser.param_groups[0]["lr"] = TILE_LR * cosine(step, len(schedule))
        rows, columns = plans(config, field.tile_px, chosen)
        whole = cinr.round_through(table * config.table_max).expand(len(chosen), -1, -1)
        x = cinr.features(whole, config, field.gain, rows, columns, exact=False)
        y = cinr.forward(field.layers, x, exact=False)
        loss = torch.mean((y - targets([pixels], chosen, device)) ** 2)
        optimiser.zero_grad(set_to_none=True)
        (loss / 127.5**2 + SPARSITY * table.abs().mean()).backward()
        optimiser.step()
        with torch.no_grad():
            table.clamp_(-1, 1)
        mse = float(loss.detach())
        yield sum(p.w * p.h for p in chosen), mse, None
    with torch.no_grad():
        final = (table * config.table_max).round().to(torch.int8).cpu().numpy()
    yield 0, mse, final
