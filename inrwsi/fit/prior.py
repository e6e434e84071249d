"""Training of the prior: the networks that the package ships, for all rates at once.

    python -m inrwsi.fit.prior --slides ../shared/slides --out prior.safetensors --minutes 90

Goes on from what `--out` holds; a new training begins with the networks of another one where `--from` names it.
Recipe: `Recipe`, and `fit.pictures` for what is done to the crops.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from inrwsi.coding import tensors
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves import RATE_WEIGHT, Octaves, OctavesConfig
from inrwsi.fields.octaves_model import spacing_at, spread_of
from inrwsi.fit.percrop import PerCrop, adam_state, one_thread
from inrwsi.fit.pictures import Crops, Picture, load
from inrwsi.fit.rounded import floats_of, rounded

OCTAVES = 5
# Of the training: from here on the rate is that of the symbols, not of noise about them, and the analysis stays as it
# is. It must: the bits of a symbol 0 do not tell the analysis to leave it so, the error tells it to make more of it.
# Trained on symbols for 800 steps, it went from -1 % to +29 % of AVIF's bits on a slide that it had not seen.
HARD_FROM = 0.85
COARSE_WEIGHT = 0.1  # of the error of the octaves above level 0, which views of lower magnification show
TRAINED_ON = {  # name to weight; all CC0 or CC BY 4.0 (README, credits)
    "CMU-1-Small-Region.svs": 0.7,
    "duodenum-NET-HE.png": 1.0,
    "duodenum-NET-synaptophysin-IHC.png": 1.0,
    "liver-HE.png": 1.0,
    "stomach-ectopic-pancreas-HE.png": 1.0,
    "kidney-oncocytoma-HE.png": 1.0,
    "stomach-giemsa.png": 1.0,
    "parasite-HE.png": 1.0,
    "pituitary-adenoma-HE.png": 1.0,
    "glioma-squash-HE.png": 1.0,
    "bowel-amyloid-crystal-violet.png": 1.0,
}
HELD_OUT = ("lymph-node-anthracosis-HE.png", "kidney-pale-HE.png", "stomach-pylori-IHC.png")


@dataclass(frozen=True)
class Recipe:
    """What a training is. `steps` is the length of the learning rate's cosine."""

    steps: int = 12000
    batch: int = 4
    crop_px: int = 256
    learning_rate: float = 2e-3
    least_step: float = 2.0
    most_step: float = 110.0
    seed: int = 0


class Training:
    """One training that can be stopped and gone on with; the same whatever the stops, on one machine."""

    def __init__(self, config: OctavesConfig, recipe: Recipe, pictures: list[Picture], device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        self.model = Octaves(config).to(device, memory_format=torch.channels_last)
        self.optimiser = self._adam()
        self.step_number = 0
        self._crops = Crops(pictures, recipe.crop_px, recipe.seed)
        threads = 2 if device.type == "cpu" else os.cpu_count()  # of crops, a core makes 40 a second: a GPU waits
        self._ahead = ThreadPoolExecutor(threads, "draw", initializer=one_thread)
        self._gradients = PerCrop(device)
        self._next: tuple[int, list] = (-1, [])
        self._rounded = False

    def round(self, prior: octaves_prior.Prior) -> None:
        """From here on compute in the integers of a prior that was released of these networks; the analysis stays."""
        rounded(self.model, prior)
        self.optimiser = self._adam()
        self._rounded = True

    def moves(self, p: nn.Parameter) -> bool:
        """Whether training changes a parameter."""
        if any(p is q for q in self.model.nets[0].up.parameters()):  # nothing is above the finest octave
            return False
        return not (self._rounded and any(p is q for q in self.model.analyses.parameters()))

    def _adam(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.model.parameters(), self.recipe.learning_rate, betas=(0.9, 0.98), fused=True)

    def _batch(self) -> Tensor:
        number, coming = self._next
        if number != self.step_number:
            coming = self._draw(self.step_number)
        self._next = (self.step_number + 1, self._draw(self.step_number + 1))
        crops = np.stack([c.result() for c in coming])
        return torch.from_numpy(crops).to(self.device).contiguous(memory_format=torch.channels_last)

    def _draw(self, step_number: int) -> list:
        size = self.recipe.batch
        return [self._ahead.submit(self._crops, n) for n in range(step_number * size, (step_number + 1) * size)]

    def step(self) -> tuple[float, float, float]:
        """One batch. Returns the loss, bits a pixel and mean squared error in squared steps."""
        recipe = self.recipe
        x = self._batch()
        rng = np.random.default_rng((recipe.seed, 1, self.step_number))
        logs = rng.uniform(math.log(recipe.least_step), math.log(recipe.most_step), len(x))
        apart = [spread_of(spacing_at(float(equal))) for equal in np.exp(logs)]
        steps, spreads = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)
            for values in (np.exp(logs) / apart, apart)
        )
        done = self.step_number / recipe.steps
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.learning_rate * min(1.0, (self.step_number + 1) / 200) * _cosine(done)
        hard = self._rounded or done >= HARD_FROM
        self.model.analyses.requires_grad_(not hard)

        def crop_losses(crops: slice, noise: torch.Generator) -> tuple[Tensor, Tensor]:
            step, spread = steps[crops], spreads[crops]
            decoded, truth, bits = self.model(x[crops], step, OCTAVES, hard, noise, spread)
            unit = (step * spread).square().view(-1)
            errors = [((d - t) ** 2).mean((1, 2, 3)) / unit for d, t in zip(decoded, truth, strict=True)]
            bpp = torch.stack(bits).sum(0) / x.shape[2] / x.shape[3]
            losses = (errors[0] + COARSE_WEIGHT * sum(errors[1:])) / RATE_WEIGHT + bpp
            # A share of its bits counts alike at every step: without the logarithm fine steps would be heard alone.
            return torch.log(losses), torch.stack((losses, bpp, errors[0]), 1).detach()

        seeds = [self.step_number * len(x) + n for n in range(len(x))]
        found = self._gradients.gradients(self.model.parameters(), crop_losses, seeds)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 3.0)
        self.optimiser.step()
        self.step_number += 1
        loss, bpp, error = np.mean(found, 0).tolist()
        return loss, bpp, error

    def state(self) -> dict[str, np.ndarray]:
        """Everything that going on needs."""
        out = {f"model.{k}": v.detach().cpu().numpy() for k, v in self.model.state_dict().items()}
        for n, p in enumerate(self.model.parameters()):
            held = self.optimiser.state.get(p, {})
            out |= {f"adam.{n}.{k}": np.atleast_1d(v.detach().cpu().numpy()) for k, v in held.items()}
        out["step_number"] = np.array([self.step_number], np.int64)
        return {k: np.ascontiguousarray(v) for k, v in out.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict({k[6:]: torch.from_numpy(v) for k, v in state.items() if k.startswith("model.")})
        for n, p in enumerate(self.model.parameters()):
            held = {k.rsplit(".", 1)[1]: v for k, v in state.items() if k.startswith(f"adam.{n}.")}
            if held:
                self.optimiser.state[p] = adam_state(p, held)
        self.step_number = int(state["step_number"][0])


def _cosine(done: float) -> float:
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def pictures_of(folder: Path, extra: list[Path]) -> list[Picture]:
    """The pictures that weights may be trained on, from the folder of development slides and elsewhere."""
    found = [load(folder / name, weight, n) for n, (name, weight) in enumerate(TRAINED_ON.items())]
    return found + [load(path, 1.5, 100 + n) for n, path in enumerate(extra)]


def train(training: Training, out: Path, seconds: float, save_every: float = 120.0) -> Iterator[str]:
    """Train until the recipe or the time is used up, saving to `out` now and then. Yields a line of progress."""
    began = saved = time.monotonic()
    first, seen = training.step_number, []
    while training.step_number < training.recipe.steps and time.monotonic() - began < seconds:
        seen.append(training.step())
        now = time.monotonic()
        if training.step_number % 100 == 0:
            loss, bpp, error = np.mean(seen, 0)
            rate = (training.step_number - first) / (now - began)
            left = (training.recipe.steps - training.step_number) / rate / 60
            seen = []
            yield (
                f"step {training.step_number} of {training.recipe.steps}: loss {loss:.4f}, {bpp:.3f} bpp, "
                f"error {error:.5f} steps^2, {rate:.2f} steps/s, {left:.0f} min left"
            )
        if now - saved > save_every:
            save(training, out)
            saved = now
    save(training, out)


def save(training: Training, out: Path) -> None:
    """The whole state, by rename."""
    partial = out.with_name(out.name + ".partial")
    partial.write_bytes(tensors.pack(training.state()))
    os.replace(partial, out)


def resume(training: Training, out: Path) -> None:
    """Go on with what `save` wrote."""
    raw = out.read_bytes()
    expected = {k: (v.shape, v.dtype.name) for k, v in training.state().items() if not k.startswith("adam.")}
    for n, p in enumerate(training.model.parameters()):
        if training.moves(p):
            expected |= {f"adam.{n}.{k}": (tuple(p.shape), "float32") for k in ("exp_avg", "exp_avg_sq")}
            expected[f"adam.{n}.step"] = ((1,), "float32")
    training.restore(tensors.unpack(raw, expected))


def begin_with(training: Training, path: Path) -> None:
    """Take the networks, and nothing else, of another training's checkpoint, or of a released prior."""
    if path.suffix == octaves_prior.SUFFIX:
        training.model.load_state_dict(floats_of(octaves_prior.unpack(path.read_bytes())).state_dict())
        return
    with safe_open(path, "np") as file:
        names = [name for name in file.keys() if name.startswith("model.")]  # noqa: SIM118 - not a mapping
        training.model.load_state_dict({name[6:]: torch.from_numpy(file.get_tensor(name)) for name in names})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, required=True, help="folder of the development slides")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further slides to train on")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write, or to go on from")
    parser.add_argument("--from", dest="begin", type=Path, help="checkpoint or prior to take the networks of")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after this long; go on with the same command")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="length of the training")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--round", type=Path, help="prior released of those networks, in whose integers to train on")
    parser.add_argument("--least-step", type=float, default=Recipe.least_step, help="grey levels")
    args = parser.parse_args()
    recipe = Recipe(steps=args.steps, batch=args.batch, learning_rate=args.learning_rate, least_step=args.least_step)
    training = Training(OctavesConfig(), recipe, pictures_of(args.slides, args.also), torch.device(args.device))
    if args.begin and not args.out.exists():
        begin_with(training, args.begin)
    if args.round:
        training.round(octaves_prior.unpack(args.round.read_bytes()))
    if args.out.exists():
        resume(training, args.out)
    print(f"{asdict(recipe)}, from step {training.step_number}", flush=True)
    for line in train(training, args.out, args.minutes * 60):
        print(line, flush=True)


if __name__ == "__main__":
    main()
