"""Networks in integers with gradients: the same integers as files are coded with, and gradients that go through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from inrwsi.fields.octaves import OctavesConfig, black, merge, white
from inrwsi.fields.octaves_integer import FACTOR_UNIT, NETS, SCALE_OFFSET, IntegerNet
from inrwsi.fields.octaves_model import FEATURES, STEP_UNIT
from inrwsi.fields.octaves_prior import Prior
from inrwsi.fit.quantise import LOG_SCALE_UNIT, MEAN_UNIT, net_units
from inrwsi.fit.rounded import RoundedNet, exact_sum, rounded_of, whole
from tests.test_fit_slide import prior as small_prior
from tests.test_octave_chunks import PRIORS, released

CPU = torch.device("cpu")
SIDE = 16
STEP = 20


class Said:
    """Gives each pass random symbols, and keeps what it was told."""

    def __init__(self) -> None:
        self.means: list[np.ndarray] = []
        self.scales: list[np.ndarray] = []
        self.symbols: list[np.ndarray] = []

    def __call__(self, number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        self.means.append(means.copy())
        self.scales.append(scales.copy())
        self.symbols.append(np.random.default_rng(number).integers(-3, 4, means.shape).astype(np.int32))
        return self.symbols[-1]


def octave(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and features of an octave, of every size that there is."""
    rng = np.random.default_rng(number)
    below = (rng.normal(0, 200, (3, SIDE, SIDE)).cumsum(2)).clip(-8000, 8000).astype(np.int16)
    features = rng.integers(0, 256 if number < NETS - 1 else 1, (FEATURES, SIDE, SIDE)).astype(np.uint8)
    return below, features


@pytest.mark.parametrize("fast", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize("number", range(NETS))
def test_the_same_integers_as_files_are_coded_with(number: int, which: str, fast: bool) -> None:
    own: Prior = released() if which == "released" else small_prior()
    below, features = octave(number)
    said = Said()
    coded = IntegerNet(own.nets[number], STEP * STEP_UNIT, CPU).run(below, features, said, hand_up=True)
    net = rounded_of(own, CPU).nets[number]
    step = torch.full((1, 1, 1, 1), float(STEP))
    low = torch.from_numpy(below.astype(np.float32) / 64)[None]

    def passed(head: int, sites: object, seen: Tensor | None) -> Tensor:
        mean, scale = net.heads[head](at[sites], seen, sites)
        mean16 = (mean / MEAN_UNIT).permute(0, 2, 3, 1).reshape(-1).numpy()
        index = torch.log(scale - 0.05) / LOG_SCALE_UNIT
        assert np.array_equal(mean16, said.means[head])
        assert np.abs(index.permute(0, 2, 3, 1).reshape(-1).numpy() + SCALE_OFFSET - said.scales[head]).max() < 0.01
        symbols = said.symbols[head].reshape(2, SIDE // 2, SIDE // 2, -1).astype(np.float32)
        return torch.from_numpy(symbols).permute(0, 3, 1, 2) + mean

    def seen_of(x: Tensor) -> Tensor:
        return x * 0.25

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast):
        trunk = net.trunk(low, torch.from_numpy(features.astype(np.float32))[None], step)
        at = {black: black(trunk), white: white(trunk)}
        first = passed(0, black, None)
        luma = merge(first, passed(1, white, seen_of(merge(first, torch.zeros_like(first)))))
        first = passed(2, black, seen_of(luma))
        seen = torch.cat((seen_of(luma), seen_of(merge(first, torch.zeros_like(first)))), 1)
        values = torch.cat((luma, merge(first, passed(3, white, seen))), 1)
        inverse = torch.from_numpy((own.nets[number]["inverse_factor"] / FACTOR_UNIT).astype(np.float32))
        pixels, up = net.synthesise(trunk, low, values * inverse.view(1, -1, 1, 1), step)
    assert np.array_equal(up[0].float().numpy(), coded.features)
    # The wavelet is in floats here, and in 1 / 64 grey level there.
    assert np.abs(pixels[0].numpy() * 64 - coded.pixels).max() < 8


def test_a_gradient_goes_through_what_is_rounded_and_not_past_what_is_cut_off() -> None:
    x = torch.tensor([-300.0, -0.4, 0.5, 2.6, 254.9, 255.6], requires_grad=True)
    y = whole(x, 255.0)
    assert y.tolist() == [-255.0, 0.0, 1.0, 3.0, 255.0, 255.0]
    (y * torch.arange(6.0)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 0.0]


def test_sums_are_rounded_to_eight_significant_bits() -> None:
    x, weight = torch.full((1, 3, 1, 1), 255.0), torch.full((1, 3, 1, 1), 127.0)
    assert exact_sum(x, weight).item() == 97280.0  # 97155, to the next multiple of 512


def test_every_weight_of_a_net_learns() -> None:
    own = small_prior()
    model = rounded_of(own, CPU)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((1, 3, 64, 64), generator=generator).cumsum(3) * 3
    decoded, truth, bits = model(x, torch.full((1, 1, 1, 1), 8.0), 5, True, generator)
    loss = ((decoded[0] - truth[0]) ** 2).mean() / 64 / 0.045 + torch.stack(bits).sum() / 64**2
    loss.backward()
    still = [n for n, p in model.nets.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == ["0.up.weight", "0.up.bias"]


def test_the_parameters_are_those_of_the_networks_in_floats() -> None:
    own = small_prior()
    config = OctavesConfig()
    from inrwsi.fields.octaves import OctaveNet

    plain = {k: v.shape for k, v in OctaveNet(config).state_dict().items()}
    assert {
        k: v.shape for k, v in RoundedNet(config, own.nets[0], net_units(own.units, 0), CPU).state_dict().items()
    } == plain
