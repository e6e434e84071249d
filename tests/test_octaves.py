"""The default model in floats: it starts as a wavelet, its passes see what they may, and it can be trained."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inrwsi.coding.tables import logistic_pmf
from inrwsi.fields import octaves, octaves_integer, octaves_model, octaves_prior
from inrwsi.fields.octaves import (
    Octaves,
    OctavesConfig,
    black,
    choose,
    logistic_bits,
    mean3,
    merge,
    octave_step,
    only_black,
    replicate,
    white,
)
from inrwsi.fields.wavelet import forward97, inverse97

SMALL = OctavesConfig(width=8, head_width=8, features=4, squeeze=3, analysis_width=8)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(config: OctavesConfig = SMALL, *, stirred: bool = False) -> Octaves:
    """A model as it starts, or one whose zeroed layers hold something."""
    torch.manual_seed(0)
    made = Octaves(config).eval()
    if stirred:
        for layer in made.modules():
            if isinstance(layer, nn.Conv2d) and not layer.weight.any():
                nn.init.normal_(layer.weight, std=0.05)
    return made


def test_sites_come_apart_and_together() -> None:
    x = noise(2, 3, 6, 8)
    assert (merge(black(x), white(x)) == x).all()
    assert (merge(black(x), torch.zeros_like(white(x))) == only_black(x)).all()
    y, column = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    parity = ((y + column) % 2).float().expand(1, 1, 6, 8)
    assert not black(parity).any()
    assert white(parity).all()


def test_borders_are_repeated() -> None:
    x = noise(1, 2, 5, 7)
    assert (replicate(x) == nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")).all()
    expected = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert (mean3(x) - expected).abs().max() < 1e-6


def test_training_starts_at_the_wavelet() -> None:
    x, step = 60 * noise(2, 3, 32, 32), torch.full((2, 1, 1, 1), 8.0)
    made = model()
    with torch.no_grad():
        decoded, truth, bits = made(x, step, 2, hard=True)
        below, details = forward97(x)
        scale = torch.full_like(details, octaves.SCALE_FLOOR + 1)  # what zeroed heads say
        own = truth[1]
        assert (own - below).abs().max() < 1e-4
        symbols = choose(forward97(x)[1] / 8.0, scale)
        expected = inverse97(decoded[1], symbols * 8.0)
    assert (decoded[0] - expected).abs().max() < 1e-3
    assert len(decoded) == len(truth) == len(bits) == 2
    assert (truth[0] == x).all()
    assert bits[0].shape == (2,)
    assert bits[0].sum() == pytest.approx(logistic_bits(symbols, scale).sum().item(), rel=1e-4)


def test_a_pass_sees_only_what_is_decoded_before_it() -> None:
    """A change of what a later pass codes changes no earlier pass' bits: a decoder could not know of it."""
    made = model(stirred=True)
    net, trunk = made.nets[0], noise(1, 8, 8, 8).relu()
    order = []
    for first, bands, is_white, _, _ in octaves_integer.PASSES:
        chosen = torch.zeros(1, 9, 8, 8, dtype=torch.bool)
        y, x = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
        chosen[:, first : first + bands] = ((y + x) % 2 == int(is_white))[None]
        order.append(chosen)
    units = 3 * noise(1, 9, 8, 8, seed=1)
    with torch.no_grad():
        base, _ = made._passes(net, trunk, units, True, None, 1.0)
        for number, chosen in enumerate(order):
            changed, _ = made._passes(net, trunk, torch.where(chosen, units + 5, units), True, None, 1.0)
            differs = [bool((changed != base)[other].any()) for other in order]
            assert differs[number]
            assert not any(differs[:number]), number
            if number == 0:
                assert all(differs)


def test_values_are_a_spread_apart() -> None:
    """And cost what as many whole units cost of a scale so much smaller."""
    made = model(SMALL, stirred=True).eval()
    net, trunk, units = made.nets[0], noise(1, 8, 8, 8).relu(), 9 * noise(1, 9, 8, 8, seed=1)
    with torch.no_grad():
        coded, bits = made._passes(net, trunk, units, True, None, 2.5)
        fine, more = made._passes(net, trunk, units, True, None, 1.0)
        mean, scale = net.heads[0](octaves.black(trunk), None, octaves.black)
    apart = (octaves.black(coded[:, :3]) - mean) / 2.5
    assert (apart - apart.round()).abs().max() < 1e-4
    assert apart.abs().max() > 3
    assert octaves.logistic_bits(apart.round(), scale / 2.5).sum() < bits.sum() < 0.85 * more.sum()
    assert ((coded - units) ** 2).mean() > 3 * ((fine - units) ** 2).mean()


def test_every_weight_learns() -> None:
    made = model(SMALL, stirred=True).train()
    decoded, truth, bits = made(40 * noise(2, 3, 64, 64), torch.full((2, 1, 1, 1), 10.0), 4, hard=False)
    loss = sum(b.sum() for b in bits) / 1e4 + sum(((d - t) ** 2).mean() for d, t in zip(decoded, truth, strict=True))
    loss.backward()
    # The finest octave hands nothing up that anybody takes.
    silent = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(silent) <= {"nets.0.up.weight", "nets.0.up.bias"}
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)


def test_bits_are_those_of_the_tables() -> None:
    scales, y = np.array([0.06, 0.5, 2.0, 20.0]), np.arange(-20, 21)
    pmf = logistic_pmf(scales, 127)[:, 127 + y]
    found = logistic_bits(torch.from_numpy(y).double().expand(4, -1), torch.from_numpy(scales)[:, None]).numpy()
    near = pmf > 1e-30
    assert np.abs(found + np.log2(np.where(near, pmf, 1)))[near].max() < 1e-6
    assert np.isfinite(logistic_bits(torch.tensor([1e4, -1e4]), torch.tensor([0.05, 0.05])).numpy()).all()


def test_the_integer_next_to_a_number_that_costs_least_is_chosen() -> None:
    """Squared error in steps, and bits, weighed as in training: by 3 RATE_WEIGHT."""
    x = torch.linspace(-5.5, 5.5, 1101).double()
    for scale in (0.05, 0.3, 1.0, 4.0):

        def cost(y: Tensor, scale: float = scale) -> Tensor:
            bits = logistic_bits(y, torch.full_like(y, scale))
            return (x - y) ** 2 + 3 * octaves.RATE_WEIGHT * bits

        found = choose(x, torch.full_like(x, scale))
        toward, away = x.abs().floor() * x.sign(), (x.abs().floor() + 1) * x.sign()
        assert ((found == toward) | (found == away)).all()
        excess = cost(found) - torch.minimum(cost(toward), cost(away))
        assert excess[x.abs() < 1].max() < 1e-9, scale
        assert excess.max() < 0.03, scale  # beyond 1 it goes by the slope of the cost between two symbols
        assert (found == -choose(-x, torch.full_like(x, scale))).all()


def test_steps_agree_with_those_of_the_integers() -> None:
    for step in (512, 1000, 20480, 204800):
        for octave in range(12):
            floats = octave_step(step / octaves_model.STEP_UNIT, octave).item() * octaves_model.STEP_UNIT
            assert 0 <= floats - octaves_integer.octave_step(step, octave) < 1
            finer = octave_step(step / octaves_model.STEP_UNIT, octave, 13, 64 / 1024).item() * octaves_model.STEP_UNIT
            assert 0 <= finer - octaves_integer.octave_step(step, octave, 13, 64) < 2


def test_sizes_are_those_of_the_integers() -> None:
    config, net = OctavesConfig(), Octaves(OctavesConfig())
    assert (config.width, config.head_width, config.squeeze, config.features, config.nets) == (
        octaves_integer.WIDTH,
        octaves_integer.HEAD_WIDTH,
        octaves_integer.SQUEEZE,
        octaves_model.FEATURES,
        octaves_integer.NETS,
    )
    for number in range(config.nets):
        weights = {n: tuple(w.shape) for n, w in net.nets[number].named_parameters() if n.endswith("weight")}
        assert weights == {f"{n}.weight": s for n, s in octaves_integer.layer_shapes().items()}
    assert [config.net_of(k) for k in range(6)] == [octaves_integer.net_of(k) for k in range(6)]
    assert config.analysis_width == octaves_prior.ANALYSIS_WIDTH
    assert {n: tuple(w.shape) for n, w in net.analyses[0].named_parameters()} == {
        n: shape for n, (shape, _) in octaves_prior.analysis_tensors().items()
    }


def test_multiplications_follow_the_sizes() -> None:
    """All layers of the plain kind, by hand: 3 x 3 at a quarter of the pixels, and all octaves 4/3 of the finest."""
    config = OctavesConfig(width=1, head_width=1, features=1, squeeze=1)
    trunk, synthesis = 9 * 7 + 9, 1 + 9 * 10 + 9 + 12
    heads = 0.5 * ((1 + 1 + 6) + (1 + 36 + 1 + 6) + (1 + 27 + 1 + 12) + (1 + 51 + 1 + 12))
    assert octaves.mac_per_px(config, active=False) == pytest.approx((trunk + synthesis + heads) / 3 + 4 / 12)
    assert octaves.mac_per_px(config) == pytest.approx((trunk + 9 * 2 + synthesis + heads) / 3 + 4 / 12)
    assert math.isclose(octaves.mac_per_px(OctavesConfig()), 11989 + 1 / 3)
