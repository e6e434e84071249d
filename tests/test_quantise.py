"""From floats to integers: the nets that files are coded with do what the trained ones do, within their rounding."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inrwsi.coding.tables import FrequencyTables
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves import BANDS, COEFFICIENT_MAX, Octaves, OctavesConfig, black, octave_step, white
from inrwsi.fields.octaves_integer import (
    FACTOR_UNIT,
    NETS,
    PASSES,
    SCALE_OFFSET,
    IntegerNet,
    check_net,
    net_tensors,
)
from inrwsi.fields.octaves_model import FEATURES, STEP_UNIT, Decoded, OctavesModel
from inrwsi.fields.wavelet import inverse97
from inrwsi.fit import release
from inrwsi.fit.quantise import (
    BIAS_MAX,
    LOG_SCALE_UNIT,
    MEAN_UNIT,
    Units,
    calibrate,
    integer_net,
    net_units,
    real_net,
    shifts_of,
)
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.sample import sample_region
from tests import octaves_reference as reference
from tests.test_octaves_integer import prior as random_prior

STEP, OCTAVES = 16.0, 5
CPU = torch.device("cpu")


def crop(number: int) -> np.ndarray:
    """(3, 64, 64) float32 of generated tissue, about its mean."""
    pixels = sample_region((700 + 100 * number, 900), (64, 64), size_wh=(2048, 2048), seed=1)
    return np.ascontiguousarray((pixels.astype(np.float32) - 170).transpose(2, 0, 1))


@lru_cache
def trained() -> Octaves:
    """Networks with something in every layer, of the sizes that training gives them."""
    torch.manual_seed(3)
    model = Octaves(OctavesConfig()).eval()
    with torch.no_grad():
        for net in model.nets:
            for head in net.heads:
                nn.init.normal_(head.out.weight, std=0.1)
                head.out.bias += 0.3
            nn.init.normal_(net.pixels.weight, std=0.02)
        for analysis in model.analyses:
            analysis.log_factor.copy_(torch.linspace(-0.4, 0.5, BANDS))
            nn.init.normal_(analysis.layer3.weight, std=0.02)
    return model


@lru_cache
def units() -> Units:
    batches = ((torch.from_numpy(crop(n))[None], torch.full((1, 1, 1, 1), step)) for n, step in enumerate((8.0, STEP)))
    return calibrate(trained(), batches, OCTAVES)


def made(number: int, which: Octaves | None = None) -> dict[str, np.ndarray]:
    model = which or trained()
    real, own = real_net(model.nets[number], model.analyses[number]), net_units(units(), number)
    return integer_net(real, own, shifts_of(real, own))


def test_units_are_known_of_every_activation_and_agree_between_nets() -> None:
    assert units().keys() == octaves_prior.unit_tensors().keys()
    for name, (shape, dtype) in octaves_prior.unit_tensors().items():
        assert units()[name].shape == shape
        assert units()[name].dtype == dtype
        assert (units()[name] > 0).all()
    for number in range(1, NETS):
        taker = min(number - 1, NETS - 1)
        assert (units()[f"{number}.up"] == units()[f"{taker}.given"]).all()
    assert (units()["3.up"] == units()["3.given"]).all()  # the coarser octaves hand up to one another


@pytest.mark.parametrize("number", range(NETS))
def test_integers_are_of_the_format_and_fine(number: int) -> None:
    net = made(number)
    assert {n: (a.shape, str(a.dtype)) for n, a in net.items()} == net_tensors()
    check_net(net)
    for name, array in net.items():
        if name.endswith(".weight") and not name.endswith("neighbours.weight"):
            near = net.get(name.replace("features", "neighbours"), array)
            largest = np.maximum(np.abs(array.astype(int)).max((1, 2, 3)), np.abs(near.astype(int)).max((1, 2, 3)))
            shift = net[name.replace("weight", "shift")]
            assert ((largest > 63) | (shift == 20)).all(), name  # no bit of a weight is given away
    factor = np.exp(trained().analyses[number].log_factor.detach().numpy())
    assert np.abs(net["inverse_factor"] * factor / FACTOR_UNIT - 1).max() < 1e-3


def floats_of_pass(net: nn.Module, trunk: Tensor, values: Tensor, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and log of the scale of a pass in floats, (2, h/2, w/2, bands), from decoded coefficients."""
    _, bands, is_white, seen, _ = PASSES[number]
    head, at = net.heads[number], (white if is_white else black)
    x = head.features(at(trunk))
    if seen:
        x = x + at(head.neighbours(values[:, :seen].clamp(-COEFFICIENT_MAX, COEFFICIENT_MAX) * 0.25))
    mean, log_scale = head.out(head.hidden(x.relu()).relu()).permute(0, 2, 3, 1).split(bands, -1)
    return mean.numpy(), log_scale.numpy()


@pytest.mark.parametrize("number", range(NETS))
def test_integer_nets_follow_the_floats(number: int) -> None:
    """Of the same inputs: means, scales, pixels and features. The errors are those of 8-bit activations."""
    model = trained()
    net, factor = model.nets[number], torch.exp(model.analyses[number].log_factor.detach()).view(1, BANDS, 1, 1)
    step = octave_step(STEP, number)
    rng = np.random.default_rng(number)
    below = np.rint(64 * crop(7)[:, :32, :32]).astype(np.int16)
    given = units()[f"{number}.given"]
    features = rng.integers(0, 120, (FEATURES, 32, 32)).astype(np.uint8)
    below_f = torch.from_numpy(below / 64).float()[None]
    features_f = torch.from_numpy(features * given[:, None, None]).float()[None]
    wanted = np.rint(rng.laplace(0, 2, (4, 32 * 32 * 9))).astype(np.int32)
    values, errors = torch.zeros(1, 9, 32, 32), []
    with torch.no_grad():
        trunk = net.trunk(below_f, features_f, step.view(1, 1, 1, 1))

        def coder(which: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
            first, bands, is_white, _, _ = PASSES[which]
            mean, log_scale = floats_of_pass(net, trunk, values, which)
            errors.append(np.abs(means.reshape(mean.shape) - mean / MEAN_UNIT).mean())
            index = np.clip(SCALE_OFFSET + log_scale / LOG_SCALE_UNIT, 0, 63)
            errors.append(np.abs(scales.reshape(mean.shape) - index).mean())
            symbols = wanted[which, : means.size]
            placed = torch.from_numpy((symbols + means * MEAN_UNIT).reshape(mean.shape)).float().permute(0, 3, 1, 2)
            band = slice(first, first + bands)
            values[:, band, 0::2, int(is_white) :: 2] = placed[:1]
            values[:, band, 1::2, int(not is_white) :: 2] = placed[1:]
            return symbols

        held = IntegerNet(made(number), round(float(step) * STEP_UNIT), CPU)
        found = held.run(below, features, coder, hand_up=True)
        coefficients = values / factor
        pixels, up = net.synthesise(trunk, below_f, coefficients, step.view(1, 1, 1, 1))
        plain = inverse97(below_f, coefficients * step)
    assert max(errors) < 0.5, errors  # units of means and of scales; to round to them costs 0.25
    network_part = (pixels - plain).abs().mean().item()
    # the wavelet is rounded to 1 / 64 grey level a few times, the residual by the activations
    assert np.abs(found.pixels / 64 - pixels[0].numpy()).mean() < 0.05 + 0.05 * network_part
    if number:  # net 0 hands nothing up
        assert found.features is not None
        own = found.features * units()[f"{number}.up"][:, None, None]
        kept = up[0].numpy() < 254 * units()[f"{number}.up"][:, None, None]
        assert np.abs(own - up[0].numpy())[kept].mean() < 0.05 * up.mean().item()


def test_a_bias_beyond_the_weights_is_kept() -> None:
    """A channel that hears hardly anything must not get a shift at which its bias would be cut off."""
    torch.manual_seed(1)
    model = Octaves(OctavesConfig()).eval()
    with torch.no_grad():
        head = model.nets[0].heads[0]
        head.out.weight.mul_(0)
        head.out.bias.fill_(1.5)
    net, own = made(0, model), net_units(units(), 0)
    bias = net["heads.0.out.bias"] / 2.0 ** net["heads.0.out.shift"] * own["heads.0.out>"]
    assert np.abs(bias - 1.5).max() < 1e-3
    assert np.abs(net["heads.0.out.bias"]).max() <= BIAS_MAX


def test_sums_that_cannot_fit_are_refused() -> None:
    real, own = real_net(trained().nets[0], trained().analyses[0]), net_units(units(), 0)
    net = integer_net(real, own, shifts_of(real, own))
    net["trunk2.bias"][0] = 2**24 - 1
    with pytest.raises(ValueError, match="sums of trunk2"):
        check_net(net)


def test_a_release_is_a_prior_that_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "CALIBRATION_CROPS", 2)
    monkeypatch.setattr(release, "COUNTED_CROPS", 2)
    raw = octaves_prior.pack(release.release(trained(), lambda number: crop(number % 5)))
    assert raw == octaves_prior.pack(release.release(trained(), lambda number: crop(number % 5)))
    prior = octaves_prior.unpack(raw)
    frequencies = prior.tables.frequencies.astype(int)
    assert (np.abs(frequencies[:, 126::-1] - frequencies[:, 128:255]) <= 1).all()  # as likely as its opposite
    model = OctavesModel(prior.sha256, 20480, release.UNIT_MATRIX, (0, 0, 0))
    coder = ChunkCoder(model, None, CPU, encoder=True, prior=prior)
    target = crop(9)[:, :21, :30]
    _, parent = coder.encode_root(coder.below(target)[:, :11, :15])
    payload, seen = coder.encode(0, target, parent)
    found = coder.decode(0, payload, parent, (30, 21))
    assert (found.pixels == seen.pixels).all()
    held = reference.read_prior(raw)
    parts = (np.asarray(part, np.int64) for part in (parent.pixels, parent.features))
    pixels, _, _ = reference.decode(held, 20480, 0, payload, tuple(parts), (30, 21))
    assert (found.pixels == pixels).all()
    # Untrained nets and a wavelet: a step of 20 levels leaves an error of some 20 / sqrt(12) at most.
    assert np.sqrt(np.mean((found.pixels / 64 - target) ** 2)) < 12


def test_tables_are_mixed_from_what_was_seen_and_what_was_assumed() -> None:
    assumed = release.assumed()
    assert assumed.shape == (128, 256)
    assert np.abs(assumed.sum(1) - 1).max() < 1e-12
    # Of a scale of 20 units the second quantiser's values lie a unit apart, as the first's do, but for 0 and its
    # neighbours, which share two units and a half as 1/2 and 3/4 each.
    wide = assumed[64 + 54, 124:132] / assumed[54, 127]
    assert wide == pytest.approx([1, 1, 0.75, 0.5, 0.75, 1, 1, 1], abs=0.01)
    counts = np.zeros((128, 256))
    assert np.abs(release.mixed(counts) - assumed / assumed.sum(1, keepdims=True)).max() < 1e-12
    counts[40, 130] = 1e9
    mixed = release.mixed(counts)
    assert mixed[40, 130] == mixed[40, 124] == pytest.approx(0.5, abs=1e-3)
    assert np.abs(mixed.sum(1) - 1).max() < 1e-12


def test_counting_coder_counts_what_it_codes() -> None:
    counts = np.zeros((128, 256))
    rows = np.concatenate((random_prior().tables.frequencies,) * 2)
    prior = dataclasses.replace(random_prior(), tables=FrequencyTables.from_frequencies(rows))
    coder = release.CountingCoder(prior, 20480, counts)
    parent = Decoded(np.zeros((3, 8, 8), np.int16), np.zeros((FEATURES, 8, 8), np.uint8))
    coder.encode(1, crop(0)[:, :16, :16], parent)
    assert counts.sum() == 8 * 8 * 9
    assert counts[:64].sum() > counts[64:].sum() > 100  # skipped symbols count for the first
    release.count_symbols(prior, crop(1), 20.0, counts)
    assert counts.sum() == 8 * 8 * 9 + 9 * sum((32 >> k) ** 2 if k < 4 else 4 for k in range(OCTAVES))
