"""From a training's checkpoint to a released prior: calibrate, make integers, count symbols, make tables.

python -m inrwsi.fit.release checkpoint.safetensors --slides ../shared/slides --out inrwsi/priors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from inrwsi.coding.tables import FrequencyTables, logistic_pmf, quantise_pmf
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves import SCALE_FLOOR, Octaves, OctavesConfig
from inrwsi.fields.octaves_integer import NETS, SCALE_OFFSET, SCALES
from inrwsi.fields.octaves_model import LEAST_STEP, STEP_UNIT, OctavesModel
from inrwsi.fit.pictures import Crops
from inrwsi.fit.prior import OCTAVES, Recipe, pictures_of
from inrwsi.fit.quantise import LOG_SCALE_UNIT, calibrate, held_shifts, integer_net, net_units, real_net, shifts_of
from inrwsi.octave_choices import Choices
from inrwsi.octave_chunks import ChunkCoder

CALIBRATION_CROPS = 64
COUNTED_CROPS, COUNTED_TIMES = 160, 2
# Grey levels. At finer steps activations are cut off, and symbols have long tails at every scale, and are many: counted
# too, they cost all coarser steps 5 %.
COUNTED_FROM = 6.0
PRIOR_WEIGHT = 200.0  # symbols that the assumed distribution counts for, beside those seen
UNIT_MATRIX = (16384, 0, 0, 0, 16384, 0, 0, 0, 16384)  # the crops are in colour components already


def assumed() -> np.ndarray:
    """(2 SCALES, 2 L + 2): the distribution that the networks were trained under, at each scale index.

    Of the first quantiser, then of the second, whose values are half a unit nearer to 0.
    """
    scales = SCALE_FLOOR + np.exp((np.arange(SCALES) - SCALE_OFFSET) * LOG_SCALE_UNIT)
    limit = octaves_prior.SYMBOL_LIMIT
    bounds = np.concatenate(([0.25], np.arange(1, limit + 1)))  # between the second's 0, 1/2, 3/2 and so on
    with np.errstate(under="ignore"):
        beyond = np.exp(-bounds / scales[:, None])
    beyond /= 1 + beyond
    upper = beyond[:, :-1] - beyond[:, 1:]
    zero, tails = 1 - 2 * beyond[:, :1], 2 * beyond[:, -1:]
    second = np.concatenate((upper[:, ::-1], zero, upper, tails), 1)
    return np.concatenate((logistic_pmf(scales, limit), second))


def release(
    model: Octaves, crops: Crops, seed: int = 7, like: octaves_prior.Prior | None = None
) -> octaves_prior.Prior:
    """A prior of the networks of `model`; in the integers of `like`, where it was trained in those."""
    rng = np.random.default_rng(seed)
    recipe = Recipe()
    steps = np.exp(rng.uniform(np.log(recipe.least_step), np.log(recipe.most_step), CALIBRATION_CROPS))
    batches = (
        (torch.from_numpy(crops(10**9 + n))[None], torch.full((1, 1, 1, 1), float(step)))
        for n, step in enumerate(steps)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the model adds noise to the coarsest octave
        units = like.units if like else calibrate(model, batches, OCTAVES)
    nets, analyses = [], []
    for n in range(NETS):
        real = real_net(model.nets[n], model.analyses[n])
        own = net_units(units, n)
        nets.append(integer_net(real, own, held_shifts(like.nets[n]) if like else shifts_of(real, own)))
        state = model.analyses[n].state_dict()
        analyses.append({k: v.float().numpy().astype(np.float16) for k, v in state.items()})
    tables = FrequencyTables.from_frequencies(quantise_pmf(assumed()))
    return recounted(octaves_prior.Prior("0" * 64, tuple(nets), tables, tuple(analyses), units), crops, seed)


def recounted(prior: octaves_prior.Prior, crops: Crops, seed: int = 7) -> octaves_prior.Prior:
    """The same networks with tables of what they say of the crops.

    Twice: what is chosen depends on what it costs.
    """
    recipe = Recipe()
    prior = replace(prior, tables=FrequencyTables.from_frequencies(quantise_pmf(assumed())))
    for _ in range(COUNTED_TIMES):
        rng = np.random.default_rng(seed)
        counts = np.zeros((2 * SCALES, 2 * octaves_prior.SYMBOL_LIMIT + 2))
        for n in range(COUNTED_CROPS):
            step = np.exp(rng.uniform(np.log(COUNTED_FROM), np.log(recipe.most_step)))
            count_symbols(prior, crops(2 * 10**9 + n), float(step), counts)
        prior = replace(prior, tables=FrequencyTables.from_frequencies(quantise_pmf(mixed(counts))))
    return prior


def mixed(counts: np.ndarray) -> np.ndarray:
    """Probabilities from counts, made symmetric, with the assumed distribution where little was seen."""
    both = counts.copy()
    both[:, :-1] = (counts[:, :-1] + counts[:, -2::-1]) / 2
    pmf = both + PRIOR_WEIGHT * assumed()
    return pmf / pmf.sum(1, keepdims=True)


def count_symbols(prior: octaves_prior.Prior, x: np.ndarray, step: float, counts: np.ndarray) -> None:
    """Code a crop (3, h, w) and add its symbols to `counts` (rows, columns)."""
    coder = CountingCoder(prior, round(step * STEP_UNIT), counts)
    truth = [x]
    for _ in range(OCTAVES):
        truth.append(coder.below(truth[-1]))
    _, decoded = coder.encode_root(truth[-1])
    for octave in reversed(range(OCTAVES)):
        _, decoded = coder.encode(octave, truth[octave], decoded)


class CountingCoder(ChunkCoder):
    """Codes with a prior that is not released yet, and counts what it says."""

    def __init__(self, prior: octaves_prior.Prior, step: int, counts: np.ndarray) -> None:
        self._counts = counts
        model = OctavesModel("0" * 64, LEAST_STEP, UNIT_MATRIX, (0, 0, 0)).at(step)
        super().__init__(model, None, torch.device("cpu"), encoder=True, prior=prior)

    def coded(self, choices: Choices) -> None:
        limit = octaves_prior.SYMBOL_LIMIT
        for symbols, rows in choices.said:
            columns = np.where(np.abs(symbols) <= limit, symbols + limit, 2 * limit + 1)
            np.add.at(self._counts, (rows, columns), 1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of a training; or a prior, whose tables are counted again")
    parser.add_argument("--slides", type=Path, required=True, help="folder of the development slides")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further slides the training had")
    parser.add_argument("--round", type=Path, help="prior in whose integers the networks were trained")
    parser.add_argument("--out", type=Path, required=True, help="folder of priors; the new one becomes the current one")
    args = parser.parse_args()
    crops = Crops(pictures_of(args.slides, args.also), Recipe.crop_px, seed=11)
    if args.checkpoint.suffix == octaves_prior.SUFFIX:
        prior = recounted(octaves_prior.unpack(args.checkpoint.read_bytes()), crops)
    else:
        state = load_file(args.checkpoint)
        model = Octaves(OctavesConfig()).eval()
        model.load_state_dict({k[6:]: torch.from_numpy(v) for k, v in state.items() if k.startswith("model.")})
        like = octaves_prior.unpack(args.round.read_bytes()) if args.round else None
        prior = release(model, crops, like=like)
        print(f"from step {int(state['step_number'][0])}")
    raw = octaves_prior.pack(prior)
    digest = sha256(raw).hexdigest()
    (args.out / f"{digest[:16]}{octaves_prior.SUFFIX}").write_bytes(raw)
    (args.out / octaves_prior.CURRENT).write_text(digest + "\n")
    print(f"{digest}: {len(raw)} bytes")


if __name__ == "__main__":
    main()
