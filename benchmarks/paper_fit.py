"""The reproduction's field: a hash grid under one of the paper's networks, fitted to a crop in floats.

Source: Lee et al., "Convolutional Implicit Neural Representation of pathology whole-slide images" (CINR, MICCAI 2024),
section 3.1, and its reference implementation. Unlike what `.cinr` files hold, nothing is rounded: table and weights are
fp32, networks run in bfloat16 where the reference's run in float16. Needs torch, numpy and `inrwsi` without its codecs,
so that it runs on a machine that has no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields.activations import SAMPLES_A_UNIT
from inrwsi.fields.encodings import HashEncoding, HashGridConfig
from inrwsi.fields.networks import FieldNet
from inrwsi.fields.presets import PAPER_ENCODING, PRESETS
from inrwsi.fit.patches import Patch, batches, patch_grid
from inrwsi.fit.tables import REFERENCE_SCHEDULE, Schedule

MODELS = ("cinr", "engp", "ngp")
PAPER_SIDE_PX, PAPER_BATCH = 10_000, 100  # of its crops, and how many patches of 128 x 128 a step
# `tuned` is one for all networks, each kind of layer at a rate that is good for it: on 256 x 256 pixels CINR did best
# with sine layers at 1e-5, and NGP and ENGP about as well with MLPs at 3e-4 or 3e-3, and worse at 1e-4.
SCHEDULES = {
    "tuned": Schedule(table=1e-2, sine=1e-5, mlp=1e-3, pyramid=False),
    "reference": REFERENCE_SCHEDULE,
}
BETAS, EPSILON = (0.9, 0.99), 1e-8  # the reference's, and PyTorch's own, which it leaves as it is
BLOCK_PX = 256  # of what is decoded at a time


def scaled_grid(side_px: int) -> HashGridConfig:
    """The paper's grid for a crop of another size.

    24 levels of 2 features from 4 vertices a side as there, so that the networks see as many inputs; the finest level
    has as many vertices a pixel, 4.49, for which levels grow by 1.5 (side / 10,000)^(1/23); and tables are cut to the
    power of two that comes nearest to its 1.286 entries a pixel.
    """
    paper = PAPER_ENCODING
    growth = paper.per_level_scale * (side_px / PAPER_SIDE_PX) ** (1 / (paper.levels - 1))
    wanted = paper.entry_count / PAPER_SIDE_PX**2

    def off(grid: HashGridConfig) -> float:
        return abs(math.log(grid.entry_count / side_px**2 / wanted))

    return min((replace(paper, per_level_scale=growth, log2_table=log2) for log2 in range(4, 25)), key=off)


def scaled_batch(side_px: int) -> int:
    """Patches a step for as many steps an epoch as in the paper; at least one."""
    return max(1, round(PAPER_BATCH * (side_px / PAPER_SIDE_PX) ** 2))


def epoch_batches(wh: tuple[int, int], batch: int, seed: int, epoch: int) -> list[list[Patch]]:
    """The steps of an epoch: a jittered grid of patches 0.8 patch apart, in random order, `batch` at a time."""
    rng = np.random.default_rng([seed, epoch])
    return list(batches(patch_grid(wh, 0, rng), batch, rng))


class PaperFit:
    """One network and its table, which are fitted to a crop.

    Args:
        model: one of `MODELS`.
        pixels: (h, w, 3) uint8; its longer side spans the unit square of the grid.
        schedule: first learning rates of table, sine layers and MLPs.
        seed: of what the parameters start with.
    """

    def __init__(
        self,
        model: str,
        pixels: np.ndarray,
        grid: HashGridConfig,
        schedule: Schedule,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        self.pixels, self.device = pixels, device
        self.height, self.width = pixels.shape[:2]
        generator = torch.Generator().manual_seed(seed)
        self.encoding = HashEncoding(grid, generator=generator).to(device)
        self.net = FieldNet(PRESETS[model].network, generator).to(device)
        sines = [x.name for x in self.net.layers if x.activation.steps is not None]
        weights = {x.name: self.net.get_submodule(x.name).weight for x in self.net.layers}
        groups = [
            {"params": [self.encoding.table], "base": schedule.table},
            {"params": [weights[name] for name in weights if name in sines], "base": schedule.sine},
            {"params": [weights[name] for name in weights if name not in sines], "base": schedule.mlp},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimiser = torch.optim.Adam(groups, betas=BETAS, eps=EPSILON, fused=True)
        self._gradient = torch.zeros_like(self.encoding.table)

    @property
    def network_parameters(self) -> int:
        return sum(w.numel() for w in self.net.parameters())

    @property
    def table_parameters(self) -> int:
        return self.encoding.table.numel()

    def step(self, batch: Sequence[Patch], share: float) -> float:
        """One step of Adam on the squared error of patches of one shape, samples 0..255 spanning -1..1.

        Args:
            share: of the first learning rates.

        Returns:
            The mean squared error before the step, in these units.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = group["base"] * share
        target = torch.from_numpy(self._original(batch)).to(self.device).permute(0, 3, 1, 2) / SAMPLES_A_UNIT - 1
        self._gradient.zero_()
        self.optimiser.zero_grad(set_to_none=True)
        loss = (self._forward(batch) - target).square().mean()
        # An entry is in few of a batch's patches: of the mean over all, its gradient would be lost in Adam's epsilon.
        (loss * len(batch)).backward()
        self.encoding.table.grad = self._gradient
        self.optimiser.step()
        return float(loss.detach())

    def _forward(self, batch: Sequence[Patch]) -> Tensor:
        """(B, 3, h, w) fp32 of patches of one shape, about -1..1."""
        halo = self.net.halo_px
        h, w = batch[0].h + 2 * halo, batch[0].w + 2 * halo
        features = self.encoding(torch.cat([self._positions(p, halo) for p in batch]), self._gradient)
        x = features.view(len(batch), h, w, -1).permute(0, 3, 1, 2)  # as channels-last, which is fast
        with torch.autocast(self.device.type, torch.bfloat16):
            y = self.net(x)
        return y[:, :3].float()  # an MLP's outputs are padded to 16, as tiny-cuda-nn pads them

    def _positions(self, patch: Patch, halo: int) -> Tensor:
        """(n, 2) fp32: pixel centres, x then y, in units of the longer side; those outside count as the edge."""
        side = max(self.width, self.height)
        ys, xs = (
            (torch.arange(first - halo, first + count + halo, device=self.device) + 0.5) / side
            for first, count in ((patch.y, patch.h), (patch.x, patch.w))
        )
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        return torch.stack((x, y), -1).view(-1, 2)

    @torch.no_grad()
    def decode(self, patches: Sequence[Patch]) -> np.ndarray:
        """(B, h, w, 3) uint8 of patches of one shape."""
        samples = ((self._forward(patches) + 1) * SAMPLES_A_UNIT).round_().clamp_(0, 255)
        return samples.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()

    def picture(self) -> np.ndarray:
        """(h, w, 3) uint8: the whole crop as the field has it."""
        out = np.empty_like(self.pixels)
        for y in range(0, self.height, BLOCK_PX):
            for x in range(0, self.width, BLOCK_PX):
                patch = Patch(0, x, y, min(BLOCK_PX, self.width - x), min(BLOCK_PX, self.height - y))
                out[y : y + patch.h, x : x + patch.w] = self.decode([patch])[0]
        return out

    def psnr_db(self, patches: Sequence[Patch], at_a_time: int) -> float:
        """PSNR over patches of one shape, in dB."""
        squares = samples = 0
        for i in range(0, len(patches), at_a_time):
            some = patches[i : i + at_a_time]
            difference = self.decode(some).astype(np.int32) - self._original(some)
            squares += int(np.square(difference).sum(dtype=np.int64))
            samples += difference.size
        return 10 * math.log10(255**2 * samples / max(1, squares))

    def _original(self, batch: Sequence[Patch]) -> np.ndarray:
        """(B, h, w, 3) uint8."""
        return np.stack([self.pixels[p.y : p.y + p.h, p.x : p.x + p.w] for p in batch])

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs to go on to the same bits."""
        tensors: dict[str, Any] = {f"net.{name}": w for name, w in self.net.named_parameters()}
        tensors["table"] = self.encoding.table
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": value for key, value in moments.items()}
        return {name: t.detach().cpu().numpy() for name, t in tensors.items()}

    @torch.no_grad()
    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        for name, weight in self.net.named_parameters():
            weight.copy_(torch.from_numpy(arrays[f"net.{name}"]))
        self.encoding.table.copy_(torch.from_numpy(arrays["table"]))
        kept = self.optimiser.state_dict()
        for name, array in arrays.items():
            kind, _, rest = name.partition(".")
            if kind == "adam":
                index, _, key = rest.partition(".")
                kept["state"].setdefault(int(index), {})[key] = torch.from_numpy(array).to(self.device)
        self.optimiser.load_state_dict(kept)
