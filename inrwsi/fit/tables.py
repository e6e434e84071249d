"""Fitting models of a table a tile: one network a slide, then one table a tile under the frozen network.

The network is fitted together with the tables of a sample of tissue tiles, first in floats, then on the rounded numbers
that the file will hold (quantisation-aware, straight-through). Then it is frozen, and every tile's table is fitted
alone to the integers that `fields.field` decodes: tiles are independent, so any number of them streams through bounded
memory, in any order, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields.activations import ACTIVATION_MAX, SAMPLES_A_UNIT, round_through
from inrwsi.fields.field import Numbers, Tile, forward
from inrwsi.fields.grid import FRACTION, Axis, encode_grid
from inrwsi.fields.networks import INPUT, FieldNet
from inrwsi.fields.ranges import squared_error
from inrwsi.fields.tables import TableConfig, features, plan_patch
from inrwsi.fit.losses import MSE, Loss
from inrwsi.fit.optimisers import ADAM, BETAS, Optimiser
from inrwsi.fit.patches import NO_GUIDE, Guide, Patch, batches, cosine, guidance, patch_grid, targets
from inrwsi.fit.rate import Cutter, Rate
from inrwsi.fit.start import pyramid_start
from inrwsi.fit.whole import frozen, measure_activations, quantise

FLOAT_SHARE = 0.6  # of the network's steps, before rounding begins
CUT_SHARE = 0.6  # of a tile's steps, before it is cut to what it may take
TILE_LR = 3e-2  # of a tile's table alone, whose whole range is -1..1
GLASS_EVERY = 5
SPARSITY = 5e-3  # worth of a table entry's size against squared error: small entries are cheap to store
NOISE = 0.02  # added to the start, so that no two features stay alike
MEASURED_BATCHES = 4  # that the activations' ranges are taken from
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


def plans(config: TableConfig, tile_px: int, batch: Sequence[Patch]) -> tuple[list[list[Axis]], list[list[Axis]]]:
    """Row and column plans of the patches with their halo."""
    rows = [plan_patch(config, tile_px, p.y, p.h) for p in batch]
    columns = [plan_patch(config, tile_px, p.x, p.w) for p in batch]
    return rows, columns


class NetworkFit:
    """The joint fit of the network and the tables of the sample tiles.

    Args:
        tiles: (h, w, channels) each, `config.as_levels` of it.
        steps: in all; `batch` patches each.
        loss: what is made small.
        guides: what it has to know of each tile, `loss.guide`; nothing by default.
        optimiser: of the network; the tables have Adam.
    """

    def __init__(
        self,
        config: TableConfig,
        tile_px: int,
        tiles: Sequence[np.ndarray],
        *,
        steps: int,
        batch: int,
        seed: int,
        device: torch.device,
        schedule: Schedule = Schedule(),
        loss: Loss = MSE,
        guides: Sequence[Guide] = (),
        optimiser: Optimiser = ADAM,
    ) -> None:
        self.config, self.tile_px, self.tiles, self.schedule = config, tile_px, tiles, schedule
        self.loss, self.guides = loss, guides
        self.steps, self.batch, self.seed, self.device = steps, batch, seed, device
        generator = torch.Generator().manual_seed(seed)
        self.net = FieldNet(config.layers(), generator).to(device)
        starts = torch.zeros(len(tiles), config.grid.entry_count, config.features)
        if schedule.pyramid:
            starts = torch.from_numpy(np.stack([pyramid_start(config, tile_px, t) for t in tiles]))
        noise = (torch.rand(starts.shape, generator=generator) * 2 - 1) * NOISE
        self.tables = (starts + noise).to(device).requires_grad_()
        adam = {"betas": BETAS, "matrices": False}
        groups = [
            {"params": [self.tables], "base": schedule.table, **adam},
            {"params": self._weights(periodic=True), "base": schedule.sine * optimiser.rate},
            {"params": self._weights(periodic=False), "base": schedule.mlp * optimiser.rate},
        ]
        self.optimiser = optimiser.of(groups, eps=1e-12)
        self.step_number = 0
        self.rounding_from = int(steps * FLOAT_SHARE)
        self.quantised = False
        self.out_scale: dict[str, float] = {}
        self.level_scale: list[float] = []
        self._queue: list[list[Patch]] = []
        self._pass = 0

    def _weights(self, *, periodic: bool) -> list[Tensor]:
        chosen = [x for x in self.net.layers if (x.activation.steps is not None) == periodic]
        return [p for layer in chosen for p in self.net.get_submodule(layer.name).parameters()]

    def step(self) -> tuple[int, float]:
        """One step of descent. Returns the pixels fitted and the batch's `squared_error`."""
        if not self.quantised and self.step_number >= self.rounding_from:
            self._begin_rounding()
        batch = self._next_batch()
        share = 1.0 if self.schedule.constant else cosine(self.step_number, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * share
        y = self._forward(batch)
        target = targets(self.tiles, batch, self.device)
        self.optimiser.zero_grad(set_to_none=True)
        self.loss(y, target, **guidance(self.guides, batch, self.device)).backward()
        self.optimiser.step()
        if self.quantised:
            with torch.no_grad():
                self.tables.clamp_(-1, 1)
        self.step_number += 1
        return sum(p.w * p.h for p in batch), squared_error(y.detach(), target, self.config.sample_ranges)

    def _next_batch(self) -> list[Patch]:
        if not self._queue:
            rng = np.random.default_rng([self.seed, self._pass])
            patches = [p for i, t in enumerate(self.tiles) for p in patch_grid((t.shape[1], t.shape[0]), i, rng)]
            self._queue = list(batches(patches, self.batch, rng))
            rng.shuffle(self._queue)
            self._pass += 1
        return self._queue.pop()

    def _forward(self, batch: Sequence[Patch]) -> Tensor:
        if self.quantised:
            rows, columns = plans(self.config, self.tile_px, batch)
            whole = round_through(self._tables_of(batch) * self.config.table_max)
            x = features(whole, self.config, self._gain(), rows, columns, exact=False)
            return forward(self.net.layers, self._numbers(), x, self.config.sample_ranges, exact=False)
        x = self._real_inputs(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            y = self.net(x)
        return y.float() * SAMPLES_A_UNIT + self.net.layers[-1].activation.sample_zero

    def _tables_of(self, batch: Sequence[Patch]) -> Tensor:
        return self.tables[torch.tensor([p.tile for p in batch], device=self.device)]

    def _real_inputs(self, batch: Sequence[Patch]) -> Tensor:
        rows, columns = plans(self.config, self.tile_px, batch)
        return encode_grid(self._tables_of(batch), self.config.grid, rows, columns) / FRACTION**2

    def _numbers(self) -> Numbers:
        return quantise(self.net, self.config, 1 / ACTIVATION_MAX, self.out_scale)

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
        for layer in self.net.layers:
            if INPUT in layer.after:
                self.net.get_submodule(layer.name).weight.mul_(fold)
        self.optimiser.state.clear()
        seen = [self._next_batch() for _ in range(MEASURED_BATCHES)]
        self.out_scale = measure_activations(self.net, (self._real_inputs(batch) for batch in seen))
        self.quantised = True

    @torch.no_grad()
    def frozen(self) -> dict[str, np.ndarray]:
        """The file's weights: the tensors of `config.slide_tensors`."""
        return {"table.gain": self._gain().cpu().numpy()} | frozen(self.config, self._numbers())

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
            tensors |= {f"moments.{index}.{key}": torch.as_tensor(value) for key, value in moments.items()}
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
            if name.startswith("moments."):
                _, index, key = name.split(".")
                moments.setdefault(int(index), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.step_number, self._pass = meta["step"], meta["pass"]
        self._queue = [[Patch(*p) for p in batch] for batch in meta["queue"]]
        self.out_scale, self.level_scale = meta["out_scale"], meta["level_scale"]
        self.quantised = bool(self.level_scale)


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
    config: TableConfig,
    frozen_net: Tile,
    tile_px: int,
    pixels: np.ndarray,
    start: np.ndarray,
    *,
    passes: int,
    batch: int,
    seed: Sequence[int],
    busy: Callable[[Patch], bool] = lambda _: True,
    rate: Rate | None = None,
    loss: Loss = MSE,
    guide: Guide = NO_GUIDE,
) -> Iterator[tuple[int, float, dict[str, np.ndarray] | None]]:
    """Fit one tile's table under the frozen network.

    Args:
        frozen_net: the network and the gain of the slide, on the device to fit on.
        tile_px: side of a whole tile.
        pixels: (h, w, channels), `config.as_levels` of the tile, cut at the slide's edge.
        start: (entries, features) fp32 to start from, `NetworkFit.start` or `.table`.
        passes: over the tile's pixels.
        busy: whether a patch holds tissue.
        rate: what the tile may take; anything by default.
        loss: what is made small.
        guide: what it has to know of the tile, `loss.guide`.

    Yields:
        (pixels fitted, mean squared error, None) a step, and at the end (0, mse, the tensors of `config.tile_tensors`).
    """
    if frozen_net.gain is None:
        raise ValueError("the slide has no gain of its tables")
    layers, device = config.layers(), frozen_net.gain.device
    table = torch.from_numpy(start).to(device).requires_grad_()
    descent = ADAM.of([table], eps=1e-12)
    schedule = _schedule((pixels.shape[1], pixels.shape[0]), passes, batch, seed, busy)

    def cut_to(cut: float) -> dict[str, np.ndarray]:
        whole = _rounded(table.detach() * config.table_max, cut, config.table_max)
        return {"table": whole.to(torch.int8).cpu().numpy()}

    cutter, cut_from = Cutter(rate, cut_to), int(len(schedule) * CUT_SHARE)
    sparsity, mse = SPARSITY, 0.0
    for step, chosen in enumerate(schedule):
        if step == cut_from and rate is not None:
            cutter.begin()
            sparsity = 0.0  # from here on the cut says what is 0
        descent.param_groups[0]["lr"] = TILE_LR * cosine(step, len(schedule))
        rows, columns = plans(config, tile_px, chosen)
        scaled = table * config.table_max
        whole = scaled + (_rounded(scaled, cutter.cut, config.table_max) - scaled).detach()
        x = features(whole.expand(len(chosen), -1, -1), config, frozen_net.gain, rows, columns, exact=False)
        y = forward(layers, frozen_net.numbers, x, config.sample_ranges, exact=False)
        target = targets([pixels], chosen, device)
        descent.zero_grad(set_to_none=True)
        wanted = loss(y, target, **guidance([guide], chosen, device))
        (wanted + sparsity * table.abs().mean()).backward()
        descent.step()
        with torch.no_grad():
            table.clamp_(-1, 1)
        mse = squared_error(y.detach(), target, config.sample_ranges)
        yield sum(p.w * p.h for p in chosen), mse, None
    yield 0, mse, cutter.finish()


def _rounded(scaled: Tensor, cut: float, most: int) -> Tensor:
    """Table entries as whole numbers; those are 0 that are below half a step and a `cut` of the way to `most`."""
    return scaled.round() * (scaled.abs() >= 0.5 + cut * most)
