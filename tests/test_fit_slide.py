"""Fitting to a slide: it begins at the prior, goes on after a stop as if there had been none, and keeps to its nets."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from inrwsi.colour import Klt
from inrwsi.fields import octaves
from inrwsi.fields.octaves import logistic_bits
from inrwsi.fields.octaves_integer import FACTOR_UNIT, NETS, layer_shapes
from inrwsi.fields.octaves_model import STEP_UNIT, OctavesModel
from inrwsi.fields.octaves_prior import Prior, pack, unpack
from inrwsi.fit import release, slide
from inrwsi.fit.deltas import Net
from inrwsi.fit.percrop import PerCrop
from inrwsi.fit.quantise import integer_net, net_units, real_net
from inrwsi.fit.rounded import floats_of
from inrwsi.fit.slide import SlideFit
from inrwsi.sample import sample_region
from tests.test_octave_chunks import PRIORS, released
from tests.test_quantise import crop, trained


@lru_cache
def prior() -> Prior:
    """A prior of networks that nobody trained: small, but all of its parts belong together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "CALIBRATION_CROPS", 2)
        patch.setattr(release, "COUNTED_CROPS", 1)
        return unpack(pack(release.release(trained(), lambda number: crop(number % 5))))


@lru_cache
def window() -> np.ndarray:
    """(96, 112, 3) uint8 of generated tissue."""
    return sample_region((900, 900), (112, 96), size_wh=(2048, 2048), seed=1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of some milliseconds."""
    monkeypatch.setattr(slide, "CROP_PX", 64)
    monkeypatch.setattr(slide, "BATCH", 1)


def model_of() -> OctavesModel:
    """Of one quantiser, at 20 grey levels."""
    klt = Klt.of(window())
    return OctavesModel(prior().sha256, 20 * STEP_UNIT, sum(klt.matrix, ()), klt.mean)


def fit_of(
    steps: int = 4,
    which: tuple[int, ...] = (0, 1, 2),
    seed: int = 3,
    tissue_px: int = 10**6,
    model: OctavesModel | None = None,
) -> SlideFit:
    windows = [window(), window()[:64, :64].copy()]
    return SlideFit(prior(), windows, model or model_of(), steps=steps, tissue_px=tissue_px, seed=seed, which=which)


def ran(fit: SlideFit, steps: int | None = None) -> SlideFit:
    """After so many more steps, or all that are left."""
    for done, (seen_px, loss) in enumerate(fit.run(), 1):
        assert seen_px == fit.step_number * slide.BATCH * 64 * 64
        assert np.isfinite(loss)
        if done == steps:
            break
    return fit


def same(a: tuple[Net, ...], b: tuple[Net, ...]) -> list[bool]:
    """Net by net, whether they are the same bits."""
    return [
        x.keys() == y.keys() and all(x[k].tobytes() == y[k].tobytes() for k in x) for x, y in zip(a, b, strict=True)
    ]


# Where it begins


@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize("number", range(NETS))
def test_floats_of_a_prior_give_its_integers_back(which: str, number: int) -> None:
    own = released() if which == "released" else prior()
    model, net = floats_of(own), own.nets[number]
    shifts = {k.removesuffix(".shift"): v for k, v in net.items() if k.endswith(".shift")}
    found = integer_net(real_net(model.nets[number], model.analyses[number]), net_units(own.units, number), shifts)
    assert found.keys() == net.keys()
    for name in net.keys() - {"inverse_factor"}:
        assert np.array_equal(found[name], net[name]), name
    # The analysis holds the factor's logarithm in float16.
    assert np.abs(found["inverse_factor"] / net["inverse_factor"] - 1).max() < 1e-3


def test_before_the_first_step_it_is_the_prior() -> None:
    assert same(fit_of().fitted(), prior().nets) == [True] * NETS


def test_weights_are_known_in_integers() -> None:
    """What one integer of a weight is worth bounds what may be learnt, and says what a difference costs."""
    fit = fit_of()
    names = [(n, name) for n in fit.which for name in layer_shapes()]
    factors = np.concatenate([prior().nets[n]["inverse_factor"] for n in fit.which]) / FACTOR_UNIT
    assert factors.min() < 0.9  # the weights of coefficients are worth more than those beside them, and less
    assert factors.max() > 1.1
    for (weight, base, worth), (n, name) in zip(fit._bases, names, strict=True):
        assert torch.equal(weight, base)
        integers = (base / worth).numpy()
        assert np.abs(integers - prior().nets[n][f"{name}.weight"]).max() < 0.1, name
    assert fit._bits_of_weights() == 0
    weight, _, worth = fit._bases[0]
    with torch.no_grad():
        weight[0, 0, 0, 0] += 4 * worth[0, 0, 0, 0]
    assert fit._bits_of_weights().item() == pytest.approx(2.0, rel=1e-3)


# What a step does


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_fit_that_was_stopped_gives_the_same_bits(stop: int) -> None:
    whole = ran(fit_of()).fitted()
    before = ran(fit_of(), stop)
    state = {name: np.ascontiguousarray(array).copy() for name, array in before.state().items()}
    number = before.step_number
    assert number == stop
    ran(before)  # a state does not follow what its fit does next
    again = fit_of()
    again.restore(state, number)
    assert all(same(ran(again).fitted(), whole))
    assert not any(same(whole[:3], prior().nets[:3]))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide, "BATCH", 3)
    weights = []
    before = torch.get_num_threads()
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            weights.append(ran(fit_of()).state())
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


class AtOnce(PerCrop):
    """As on a GPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.at_once = None


def test_crops_at_once_are_crops_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for bfloat16's sums, one loss and one gradient."""
    monkeypatch.setattr(slide, "BATCH", 3)
    monkeypatch.setattr(octaves, "_noise", lambda x, generator: torch.zeros_like(x))
    model = OctavesModel.of(released().sha256, 12 * STEP_UNIT, Klt.of(window()), tune="balanced")
    losses, gradients = [], []
    for way in (PerCrop, AtOnce):
        monkeypatch.setattr(slide, "PerCrop", way)
        fit = SlideFit(released(), [window()], model, steps=2, tissue_px=10**9, seed=3)
        losses.append(next(iter(fit.run()))[1])
        gradients.append(torch.cat([p.grad.flatten() for p in fit.networks.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.02


def test_a_finished_fit_takes_no_step() -> None:
    fit = ran(fit_of(2))
    held = fit.fitted()
    assert list(fit.run()) == []
    assert all(same(fit.fitted(), held))


def test_the_seed_says_which_crops() -> None:
    assert all(same(ran(fit_of(2)).fitted(), ran(fit_of(2)).fitted()))
    assert not any(same(ran(fit_of(2)).fitted()[:3], ran(fit_of(2, seed=4)).fitted()[:3]))


@pytest.mark.parametrize("which", [(0,), (1, 2), (0, 1, 2, 3)])
def test_only_the_named_nets_change(which: tuple[int, ...]) -> None:
    fitted = ran(fit_of(3, which)).fitted()
    assert same(fitted, prior().nets) == [n not in which for n in range(NETS)]
    for n in which:
        for name, array in fitted[n].items():
            if name.endswith(".shift") or name == "inverse_factor":
                assert np.array_equal(array, prior().nets[n][name]), name


def test_the_rate_is_of_symbols_and_the_analysis_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the passes are asked the bits of: symbols themselves, not numbers about them."""
    whole: list[bool] = []

    def heard(y: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        whole.append(bool((y == y.round()).all()))
        return logistic_bits(y, scale)

    monkeypatch.setattr("inrwsi.fields.octaves.logistic_bits", heard)
    fit = fit_of(3)
    before = [p.detach().clone() for p in fit.networks.analyses.parameters()]
    assert not any(same(ran(fit).fitted()[:3], prior().nets[:3]))
    assert whole
    assert all(whole)
    assert all(torch.equal(p, b) for p, b in zip(fit.networks.analyses.parameters(), before, strict=True))


def test_what_an_int8_cannot_hold_is_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slide, "LEARNING_RATE", 3.0)
    fit = ran(fit_of(2))
    for weight, _, worth in fit._bases:
        assert ((weight / worth).abs() <= 127.001).all()
    assert any(((weight / worth).abs() > 126.9).any() for weight, _, worth in fit._bases)


def test_bits_of_weights_hold_a_small_slides_nets_near_the_prior() -> None:
    """The fewer pixels the differences' own bits are spread over, the fewer of them there are."""

    def differing(tissue_px: int) -> int:
        nets = ran(fit_of(8, tissue_px=tissue_px)).fitted()
        return sum(int((nets[n][k] != prior().nets[n][k]).sum()) for n in range(3) for k in nets[n] if "weight" in k)

    assert differing(100) < 0.7 * differing(10**9)


def test_networks_whose_sums_could_leave_24_bits_are_refused() -> None:
    fit = fit_of()
    with torch.no_grad():
        weight, _, worth = fit._bases[1]  # of trunk2
        weight.copy_(127 * worth.expand_as(weight))
        fit.networks.nets[0].trunk2.bias.fill_(1e6)
    with pytest.raises(ValueError, match="the sums of trunk2 reach"):
        fit.fitted()


def test_it_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that nobody trained leave much to learn of one small window."""
    monkeypatch.setattr(slide, "LEARNING_RATE", 3e-3)
    fit = SlideFit(prior(), [window()[:64, :64].copy()], model_of(), steps=40, tissue_px=10**9, seed=0)
    losses = [loss for _, loss in fit.run()]
    assert np.mean(losses[20:26]) < 0.95 * np.mean(losses[:6])


@pytest.mark.parametrize("octave", [0, 1, 2, 3])
def test_errors_count_by_the_steps_of_their_octaves(octave: int) -> None:
    """An error that octave k brings in is there in all finer ones; it counts as k's own step says, however often."""
    own_steps = (22, 15, 13)
    fit = fit_of(model=replace(model_of(), own_steps=own_steps, spacing=20))
    truth = [torch.zeros(1, 3, 64 >> k, 64 >> k) for k in range(slide.OCTAVES)]
    decoded = [t + (k <= octave) * 6.0 for k, t in enumerate(truth)]
    found = fit._errors(decoded, truth, torch.full((1, 1, 1, 1), 20.0))
    step = 20 * own_steps[min(octave, 2)] / 16 * 0.9 * 20 / 8  # nine tenths of two spacings of 20 / 16
    assert found.item() == pytest.approx((6 / step) ** 2, rel=1e-6)
