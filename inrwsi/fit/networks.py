"""Fitting models of a network a tile: each tile alone, first in floats, then on the numbers that the file will hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields.activations import SAMPLES_A_UNIT
from inrwsi.fields.coordinates import CoordinateConfig, positions
from inrwsi.fields.field import Span, forward
from inrwsi.fields.networks import FieldNet
from inrwsi.fields.ranges import squared_error
from inrwsi.fit.losses import MSE, Loss
from inrwsi.fit.optimisers import ADAM, Optimiser
from inrwsi.fit.patches import NO_GUIDE, Guide, Patch, batches, cosine, guidance, patch_grid, phases, targets
from inrwsi.fit.rate import Cutter, Rate
from inrwsi.fit.whole import frozen, measure_activations, quantise

STEP_PX = 1024  # pixels a step, where a pixel can be seen alone
PATCH_PX, PATCHES = 32, 2  # where it cannot: the side of patches, and how many a step
GUIDED_PX, GUIDED_PATCHES = 64, 1  # the same where the loss sees neighbours
GUIDED_SHARE = 0.4  # of the passes, the last ones, which it then has; pixels alone, all over the tile, fit faster
FLOAT_SHARE = 0.7  # of the steps, before rounding begins
RATE_WIDTH = 48  # the width that `CoordinateConfig.learning_rate` is for


def fit_tile(
    config: CoordinateConfig,
    tile_px: int,
    pixels: np.ndarray,
    *,
    passes: int,
    seed: Sequence[int],
    device: torch.device,
    rate: Rate | None = None,
    loss: Loss = MSE,
    guide: Guide = NO_GUIDE,
    optimiser: Optimiser = ADAM,
) -> Iterator[tuple[int, float, dict[str, np.ndarray] | None]]:
    """Fit one tile's network.

    Args:
        tile_px: side of a whole tile.
        pixels: (h, w, channels), `config.as_levels` of the tile, cut at the slide's edge.
        passes: over the tile's pixels.
        rate: what the tile may take; anything by default.
        loss: what is made small.
        guide: what it has to know of the tile, `loss.guide`.
        optimiser: what makes it so.

    Yields:
        (pixels fitted, mean squared error, None) a step, and at the end (0, mse, the tensors of `config.tile_tensors`).
    """
    rng = np.random.default_rng(list(seed))
    net = FieldNet(config.layers(), torch.Generator().manual_seed(int(rng.integers(2**62)))).to(device)
    learning_rate = optimiser.rate * config.learning_rate * math.sqrt(RATE_WIDTH / config.width)
    descent = optimiser.of(net.parameters())
    guided = [loss.of_patches and done > (1 - GUIDED_SHARE) * passes for done in range(1, passes + 1)]
    schedule = [batch for of_patches in guided for batch in _one_pass(config, pixels, rng, of_patches=of_patches)]
    rounding_from = int(len(schedule) * FLOAT_SHARE)
    out_scale: dict[str, float] = {}

    def cut_to(cut: float) -> dict[str, np.ndarray]:
        return frozen(config, quantise(net, config, unit, out_scale, cut))

    cutter = Cutter(rate, cut_to)
    unit, last, mse = config.encoding.unit, net.layers[-1].activation, 0.0
    for step, batch in enumerate(schedule):
        x = torch.cat([_inputs(config, tile_px, patch, device) for patch in batch])
        if step == rounding_from:
            out_scale = measure_activations(net, [x * unit])
            cutter.begin()
        descent.param_groups[0]["lr"] = learning_rate * cosine(step, len(schedule))
        if step < rounding_from:
            y = net(x * unit) * SAMPLES_A_UNIT + last.sample_zero
        else:
            numbers = quantise(net, config, unit, out_scale, cutter.cut)
            y = forward(net.layers, numbers, x, config.sample_ranges, exact=False)
        target = targets([pixels], batch, device)
        descent.zero_grad(set_to_none=True)
        apart = loss.of_patches and batch[0].stride > 1  # pixels without their neighbours
        (MSE if apart else loss)(y, target, **guidance([guide], batch, device)).backward()
        descent.step()
        mse = squared_error(y.detach(), target, config.sample_ranges)
        yield sum(p.w * p.h for p in batch), mse, None
    yield 0, mse, cutter.finish()


def _one_pass(
    config: CoordinateConfig, pixels: np.ndarray, rng: np.random.Generator, *, of_patches: bool
) -> list[list[Patch]]:
    """The batches of a pass over a tile.

    Args:
        of_patches: whether the loss sees neighbours.
    """
    wh = (pixels.shape[1], pixels.shape[0])
    if of_patches:
        return list(batches(patch_grid(wh, 0, rng, GUIDED_PX), GUIDED_PATCHES, rng))
    if config.halo_px == 0:
        return [[patch] for patch in phases(wh, STEP_PX, rng)]
    return list(batches(patch_grid(wh, 0, rng, PATCH_PX), PATCHES, rng))


def _inputs(config: CoordinateConfig, tile_px: int, patch: Patch, device: torch.device) -> Tensor:
    """(1, n, h, w) whole numbers of a patch, with the halo that the network needs."""
    rows, columns = (
        positions(tile_px, Span(start, count, stride=patch.stride).widened(config.halo_px))
        for start, count in ((patch.y, patch.h), (patch.x, patch.w))
    )
    return config.encoding(rows, columns, device)
