"""Fitting the networks to one slide: what `--effort default` spends its time on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from inrwsi.fields.octaves import RATE_WEIGHT, at_pixels
from inrwsi.fields.octaves_integer import NETS, layer_shapes
from inrwsi.fields.octaves_model import OWN_STEP_UNIT, STEP_UNIT, OctavesModel
from inrwsi.fields.octaves_prior import Prior
from inrwsi.fit.deltas import Net
from inrwsi.fit.percrop import PerCrop, Work, adam_state
from inrwsi.fit.quantise import held_shifts, integer_net, net_units, real_net
from inrwsi.fit.rounded import rounded_of, worth_of

OCTAVES = 5
CROP_PX = 256
BATCH = 4
# At equal PSNR, unrefined, the networks' own bytes counted, quality 78: two passes over slide-20x (on which the prior
# was trained too) save 0.5 %, and 200 batches of kidney-pale-HE (which it never saw) 1.3 %. At 2e-4 0.6 and 0.9 %, at
# 7e-4 -0.4 and 1.4 %.
LEARNING_RATE = 4e-4
STEP_SPREAD = 0.15  # of the step's logarithm, about the one that is wanted: rate control may move it


class SlideFit:
    """Descent on the slide's own pixels, from the prior.

    As in the end of the prior's training: the rate is that of the symbols, and the encoder's analysis stays as it is.
    (One that is trained on noisy symbols makes more of them: 4 % more bytes for 7 % less error, as a finer step gives
    too.)

    Args:
        prior: what is fitted.
        windows: of the slide's tissue, each (h, w, 3) uint8, at least CROP_PX a side.
        model: of the file: the slide's colour transform, and steps.
        steps: batches to take.
        tissue_px: of the whole slide, over which the networks' own bits are spread.
        seed: of the crops and the noise.
        which: nets that may change.
    """

    def __init__(
        self,
        prior: Prior,
        windows: list[np.ndarray],
        model: OctavesModel,
        *,
        steps: int,
        tissue_px: int,
        seed: int,
        which: tuple[int, ...] = (0, 1, 2),
        device: torch.device | None = None,
    ) -> None:
        self._device = device or torch.device("cpu")
        self.prior, self.which, self.steps = prior, which, steps
        self._windows, self._model, self._seed, self._tissue_px = windows, model, seed, tissue_px
        self.networks = rounded_of(prior, self._device)
        self.networks.active, self.networks.own_steps = model.active, model.own_steps
        self.networks.least_step = model.least_octave_step / STEP_UNIT
        self.networks.analyses.requires_grad_(False)
        for n in range(NETS):
            for p in self.networks.nets[n].parameters():
                p.requires_grad_(p.requires_grad and n in which)
        self._bases = self._weights()
        self._trained = {name: p for name, p in self.networks.named_parameters() if p.requires_grad}
        self._optimiser = torch.optim.Adam(self._trained.values(), LEARNING_RATE, betas=(0.9, 0.98), fused=True)
        self.step_number = 0

    def _weights(self) -> list[tuple[nn.Parameter, Tensor, Tensor]]:
        """Of each layer that may change: its weights, as they were, and what one integer of them is worth."""
        held = []
        for n in self.which:
            units = net_units(self.prior.units, n)
            for name in layer_shapes():
                worth = worth_of(self.prior.nets[n], units, name)
                weight = self.networks.nets[n].get_parameter(f"{name}.weight")
                held.append((weight, weight.detach().clone(), torch.from_numpy(worth.astype(np.float32)).to(weight)))
        return held

    def _bits_of_weights(self) -> Tensor:
        """Roughly what the differences will cost, in bits: steep enough near zero that most stay there."""
        total = torch.zeros((), device=self._device)
        for weight, base, worth in self._bases:
            total = total + 2.0 * torch.log2(1 + ((weight - base) / worth / 4).abs()).sum()
        return total

    def _batch(self, rng: np.random.Generator) -> Tensor:
        crops, klt = [], self._model.klt
        for _ in range(BATCH):
            window = self._windows[rng.integers(len(self._windows))]
            y, x = (int(rng.integers(0, side - CROP_PX + 1)) for side in window.shape[:2])
            crops.append(klt.forward(window[y : y + CROP_PX, x : x + CROP_PX]))
        return torch.from_numpy(np.stack(crops)).to(self._device).contiguous(memory_format=torch.channels_last)

    def run(self) -> Iterator[tuple[float, float]]:
        """Take the steps; yields pixels seen so far and the loss (bits a pixel, with the error in the same coin)."""
        gradients = PerCrop(self._device)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # what is not a crop's is little, and must not depend on the number of threads
        try:
            yield from self._steps(gradients)
        finally:
            torch.set_num_threads(threads)
            gradients.close()

    def _steps(self, gradients: PerCrop) -> Iterator[tuple[float, float]]:
        while self.step_number < self.steps:
            rng = np.random.default_rng((self._seed, self.step_number))
            x = self._batch(rng)
            spread = np.exp(rng.uniform(-STEP_SPREAD, STEP_SPREAD, BATCH)) * self._model.step / STEP_UNIT
            steps = torch.tensor(spread, dtype=torch.float32, device=self._device).view(-1, 1, 1, 1)
            done = self.step_number / self.steps
            for group in self._optimiser.param_groups:
                warm = min(1.0, (self.step_number + 1) / 20)
                group["lr"] = LEARNING_RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
            found = gradients.gradients(self._trained.values(), self._crop_losses(x, steps), self._seeds())
            (self._bits_of_weights() / self._tissue_px).backward()  # adds to what is there
            nn.utils.clip_grad_norm_(self._trained.values(), 3.0)
            self._optimiser.step()
            with torch.no_grad():  # what an int8 cannot hold must not be learnt
                for weight, _, worth in self._bases:
                    weight.copy_(torch.maximum(torch.minimum(weight, 127 * worth), -127 * worth))
            self.step_number += 1
            yield self.step_number * BATCH * CROP_PX**2, float(np.mean(found))

    def _seeds(self) -> list[int]:
        """Of each crop's noise."""
        first = (self._seed * 1_000_003 + self.step_number) * BATCH
        return list(range(first, first + BATCH))

    def _crop_losses(self, x: Tensor, steps: Tensor) -> Work:
        def losses_of(crops: slice, noise: torch.Generator) -> tuple[Tensor, Tensor]:
            step = steps[crops]
            decoded, truth, bits = self.networks(x[crops], step, OCTAVES, True, noise, self._model.spread)
            losses = self._errors(decoded, truth, step) / RATE_WEIGHT + torch.stack(bits).sum(0) / CROP_PX**2
            return losses, losses.detach()[:, None]

        return losses_of

    def _errors(self, decoded: list[Tensor], truth: list[Tensor], step: Tensor) -> Tensor:
        """Mean squared errors (B,) in squared steps: of octave 0, and of coarser ones where their steps are finer.

        An error of octave k is one of all finer octaves. So what it counts for there is taken off, and it counts in
        all as often as its own step says.
        """
        total, finer = torch.zeros(len(step), device=self._device), math.inf
        for k, own in enumerate(self._model.own_steps or (OWN_STEP_UNIT,)):
            apart = at_pixels(self.networks.step_at(step, k, decoded[k + 1])) * self._model.spread
            squares = ((decoded[k] - truth[k]) / apart).square().mean((1, 2, 3))
            total = total + (1 - (own / finer) ** 2) * 0.25**k * squares
            finer = own
        return total

    def state(self) -> dict[str, np.ndarray]:
        """What going on needs, beside the number of steps taken."""
        out: dict[str, np.ndarray] = {}
        for name, p in self._trained.items():
            out[f"p.{name}"] = p.detach().cpu().numpy()
            for key, value in self._optimiser.state.get(p, {}).items():
                out[f"{key}.{name}"] = np.atleast_1d(value.detach().cpu().numpy())
        return out

    def restore(self, state: dict[str, np.ndarray], step_number: int) -> None:
        """Go on from what `state` gave after so many steps."""
        for name, p in self._trained.items():
            with torch.no_grad():
                p.copy_(torch.from_numpy(state[f"p.{name}"]))
            if f"step.{name}" in state:
                held = {key: state[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                self._optimiser.state[p] = adam_state(p, held)
        self.step_number = step_number

    def fitted(self) -> tuple[Net, ...]:
        """What came of it: the integer tensors of each net, in the prior's own units.

        Raises:
            ValueError: sums could leave 24 bits, and the networks cannot be coded with.
        """
        nets = list(self.prior.nets)
        for n in self.which:
            shifts = held_shifts(self.prior.nets[n])
            real = real_net(self.networks.nets[n], self.networks.analyses[n])
            nets[n] = integer_net(real, net_units(self.prior.units, n), shifts)
            nets[n]["inverse_factor"] = self.prior.nets[n]["inverse_factor"]
        return tuple(nets)
