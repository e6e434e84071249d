"""The integer networks: one result, whatever computes it, and the sums that make that true."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.coding import sites, tensors
from inrwsi.fields import octaves_integer, octaves_prior, whole_sums
from inrwsi.fields.octaves import OctavesConfig, mac_per_px
from inrwsi.fields.octaves_fused import FusedNet
from inrwsi.fields.octaves_integer import (
    HEAD_WIDTH,
    MAX_SUM,
    PASSES,
    SCALES,
    IntegerNet,
    check_net,
    layer_shapes,
    net_of,
    net_tensors,
    octave_step,
)
from inrwsi.fields.octaves_model import FEATURES, Decoded
from tests import octaves_reference as reference
from tests.octaves_reference import draws

CPU = torch.device("cpu")
STEP = 20 * 1024
Kind = Callable[..., IntegerNet]
WAYS: list[Kind] = [IntegerNet, partial(FusedNet, fast=False), partial(FusedNet, fast=True)]  # with bf16 convolutions
# Sites; up to FEW_SITES are done in fp32. Strided bf16 convolutions of some versions of oneDNN go wrong where their
# output is one column wide.
SITES_HW = ((2, 2), (2, 4), (26, 2), (130, 2), (2, 70), (250, 2), (2, 250), (12, 10), (16, 34), (128, 128))
GOLDEN = {  # SHA-256 of coefficients (h, w, 9) as <i4, pixels as <i2 and features as u1, one after the other
    0: "5ee081368015575857c6492b6ad2bd809e5fdb577a653ae94140af98b66876b5",
    1: "16aae51db58077326d16a3c70ca7196b97e2a5eca1e615c8390a8bf4a7f3d2c3",
    3: "3163ebdc3eec8708060eb3ac2c26bfb8470ecca8a130c49760d9354f13c67db2",
}


@lru_cache
def prior(seed: int = 1) -> octaves_prior.Prior:
    """A prior of random integers, from the bytes of its file."""
    return octaves_prior.unpack(tensors.squeeze(tensors.pack(reference.random_tensors(seed))))


def inputs(name: str, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and features of an octave below."""
    below = draws(f"{name} below", -9000, 9000, (3, h, w)).astype(np.int16)
    return below, draws(f"{name} features", 0, 255, (FEATURES, h, w)).astype(np.uint8)


def said(name: str) -> Callable[[int, np.ndarray, np.ndarray], np.ndarray]:
    """A coder whose symbols come from `name` and the scale indices alone."""

    def coder(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        assert means.dtype == np.int32
        assert scales.dtype == np.uint8
        assert means.shape == scales.shape
        assert np.abs(means).max() <= octaves_integer.MEAN_MAX
        assert scales.max() < SCALES
        symbols = draws(f"{name} {number}", -3000, 3000, means.shape) >> np.clip(17 - scales // 4, 5, 17)
        return np.where(scales == 0, 0, symbols).astype(np.int32)

    return coder


def run(net: IntegerNet, name: str, hw: tuple[int, int], *, hand_up: bool = True) -> Decoded:
    return net.run(*inputs(name, *hw), said(name), hand_up=hand_up)


def same(a: Decoded, b: Decoded) -> bool:
    if (a.features is None) != (b.features is None):
        return False
    features = a.features is None or b.features is None or (a.features == b.features).all()
    return bool((a.pixels == b.pixels).all() and features)


@pytest.fixture
def two_threads() -> object:
    """Two torch threads for a test, and then what was before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("hw", SITES_HW)
def test_fp64_products_and_fp32_and_bf16_convolutions_give_the_same_bits(hw: tuple[int, int]) -> None:
    for n in range(octaves_integer.NETS):
        first, *others = (kind(prior().nets[n], STEP, CPU) for kind in WAYS)
        expected = run(first, "both", hw)
        assert [same(run(net, "both", hw), expected) for net in others] == [True] * 2, n
        if hw == SITES_HW[-1]:
            break


@pytest.mark.parametrize("kind", WAYS)
def test_two_torch_threads_give_what_one_gives(kind: Kind, two_threads: None) -> None:
    net = kind(prior().nets[0], STEP, CPU)
    with_two = [run(net, "threads", hw) for hw in SITES_HW]
    torch.set_num_threads(1)
    assert all(same(run(net, "threads", hw), d) for hw, d in zip(SITES_HW, with_two, strict=True))


@pytest.mark.parametrize("kind", WAYS)
def test_one_net_serves_several_threads_at_a_time(kind: Kind) -> None:
    net = kind(prior().nets[1], STEP, CPU)
    names = [f"company {n}" for n in range(12)]
    alone = [run(net, name, (16, 12)) for name in names]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: run(net, name, (16, 12)), names))
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("kind", WAYS[:2])
def test_golden_coefficients_and_pixels(kind: Kind) -> None:
    """Whole numbers in, whole numbers out: these may never change, on any machine."""
    for octave, digest in GOLDEN.items():
        net = kind(prior().nets[net_of(octave)], octave_step(STEP, octave), CPU)
        coefficients = np.zeros((12, 10, 9), np.int32)

        def coder(number: int, means: np.ndarray, scales: np.ndarray, held: np.ndarray = coefficients) -> np.ndarray:
            symbols = said("golden")(number, means, scales)
            first, bands, white, _, _ = PASSES[number]
            values = (16 * symbols + means).reshape(2, 6, 5, bands)
            held[0::2, int(white) :: 2, first : first + bands] = values[0]
            held[1::2, int(not white) :: 2, first : first + bands] = values[1]
            return symbols

        found = net.run(*inputs("golden", 12, 10), coder, hand_up=True)
        held = hashlib.sha256(coefficients.astype("<i4").tobytes())
        held.update(found.pixels.astype("<i2").tobytes())
        held.update(np.asarray(found.features).tobytes())
        assert held.hexdigest() == digest, octave


@pytest.mark.parametrize("kind", WAYS[:2])
def test_features_are_made_only_where_somebody_takes_them(kind: Kind) -> None:
    net = kind(prior().nets[0], STEP, CPU)
    with_features, without = (run(net, "hand", (4, 4), hand_up=up) for up in (True, False))
    assert without.features is None
    assert (without.pixels == with_features.pixels).all()
    assert with_features.features is not None
    assert with_features.features.dtype == np.uint8
    assert with_features.features.shape == (FEATURES, 8, 8)
    assert with_features.pixels.dtype == np.int16
    assert with_features.nbytes == 3 * 64 * 2 + FEATURES * 64


def largest(sign: int) -> dict[str, np.ndarray]:
    """A net whose sums are as large as `check_net` lets them be."""
    net = {name: np.zeros(shape, dtype) for name, (shape, dtype) in net_tensors().items()}
    net["inverse_factor"][:] = 64 * octaves_integer.FACTOR_UNIT
    for name, shape in layer_shapes().items():
        net[f"{name}.weight"][:] = 127
        if name.endswith("neighbours"):
            continue
        near = name.replace("features", "neighbours")
        weights = math.prod(shape[1:]) + (math.prod(layer_shapes().get(near, (0, 0))[1:]) if near != name else 0)
        net[f"{name}.bias"][:] = sign * (MAX_SUM - 1 - 256 * 127 * weights)
        net[f"{name}.shift"][:] = 16
    return net


@pytest.mark.parametrize("hw", [(6, 4), SITES_HW[-1]])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_are_exact(sign: int, hw: tuple[int, int]) -> None:
    net = largest(sign)
    check_net(net)
    below, features = np.full((3, *hw), 32000, np.int16), np.full((FEATURES, *hw), 255, np.uint8)
    below[:, ::2] = -32000

    def coder(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return np.full(means.shape, (-1) ** number * 2**20, np.int32)

    found = [kind(net, 200 * 1024, CPU).run(below, features, coder, hand_up=True) for kind in WAYS]
    assert [same(d, found[0]) for d in found] == [True] * 3
    held = {f"net.0.{name}": array for name, array in net.items()}
    trunk = reference.Net(held, 0, 200 * 1024).trunk(below.astype(np.int64), features.astype(np.int64))
    own = IntegerNet(net, 200 * 1024, CPU)
    rows = octaves_integer.sites.trunk_inputs(below, features, *own.at_sites(below))
    x = torch.from_numpy(rows).float().permute(1, 0, 2)[None]
    for layer in ("trunk1", "trunk2"):
        x = own._relu(layer, octaves_integer._replicate(x))
    assert (x[0].numpy() == trunk).all()


@pytest.mark.parametrize(
    ("name", "index", "value", "sentence"),
    [
        ("trunk2.bias", 3, MAX_SUM, "sums of trunk2 reach"),
        ("heads.1.features.bias", 0, -MAX_SUM, "sums of heads.1.features reach"),
        ("pixels.shift", 2, 25, "shift of pixels is"),
        ("up.shift", 0, -1, "shift of up is -1"),
        ("inverse_factor", 8, 0, "inverse_factor is 0"),
        ("inverse_factor", 0, 2**18 + 1, "inverse_factor is"),
    ],
)
def test_nets_that_could_leave_24_bits_are_refused(name: str, index: int, value: int, sentence: str) -> None:
    net = {k: v.copy() for k, v in prior().nets[0].items()}
    check_net(net)
    net[name][index] = value
    with pytest.raises(ValueError, match=sentence):
        IntegerNet(net, STEP, CPU)


def test_neighbours_count_with_features_in_the_bound() -> None:
    for p, seen, kernel in ((1, 3, 5), (2, 3, 3), (3, 9, 3)):
        net = largest(1)
        bound = MAX_SUM - 256 * 127 * (HEAD_WIDTH + seen * kernel**2)
        net[f"heads.{p}.features.bias"][:] = bound - 1
        check_net(net)
        net[f"heads.{p}.features.bias"][:] = bound
        with pytest.raises(ValueError, match=rf"heads.{p}.features reach {MAX_SUM}"):
            check_net(net)


def test_steps_and_nets_of_octaves() -> None:
    assert [octave_step(200 * 1024, k) for k in (0, 1, 9, 10, 40)] == [204800, 102400, 400, 256, 256]
    assert octave_step(513, 1) == 256
    assert [octave_step(2048, k, 13, 64) for k in (0, 2, 4, 5, 30)] == [1664, 416, 104, 64, 64]
    # Sixteenths are of octave 0's step, and whole before it is halved: of 1001, 22 are 1376, and 13 are 813.
    assert [octave_step(1001, k, own) for k, own in ((0, 22), (0, 13), (1, 22), (1, 13))] == [1376, 813, 688, 406]
    assert octave_step(200 * 1024, 0, 64) == 819200
    assert [net_of(k) for k in (0, 1, 2, 3, 4, 30)] == [0, 1, 2, 3, 3, 3]


def test_steps_of_sites() -> None:
    net = prior().nets[0]
    below = np.zeros((3, 6, 10), np.int16)
    below[0, :, 5:] = np.indices((6, 5)).sum(0) % 2 * 30000
    steps, logs = IntegerNet(net, 20480, CPU).at_sites(below)
    assert (steps == 20480).all()
    assert logs.shape == (6, 10, 0)
    steps, logs = IntegerNet(net, 20480, CPU, active=8).at_sites(below)
    assert steps[0, 0] == 20480 * sites.STEP_FACTORS[8][7] // 1024 == 9400
    assert steps[0, 9] == 20480 * 2896 // 1024
    assert logs[0, 0].tolist() == list(sites.step_logs(9400))
    assert logs.shape == (6, 10, 2)
    steps, logs = IntegerNet(net, 20480, CPU, active=16).at_sites(below)
    assert steps[0, 0] == 20480 * 693 // 1024  # 2^(-9/16)
    assert steps[0, 9] == 20480 * 1722 // 1024
    assert logs[0, 9].tolist() == list(sites.step_logs(34440))
    assert IntegerNet(net, 300, CPU, active=8).at_sites(below)[0].min() == 256
    finer = IntegerNet(net, 300, CPU, active=8, least=64)
    assert finer.at_sites(below)[0].min() == 300 * sites.STEP_FACTORS[8][7] // 1024 == 137
    # Of what is finer than 256 networks are told 256, as they were trained.
    assert finer.at_sites(below)[1][0, 0].tolist() == list(sites.step_logs(256)) == [-160, 200]
    # Of the largest step there is, the square of the logarithm would not fit in eight bits.
    assert IntegerNet(net, 204800, CPU, active=8).at_sites(below)[1].max() == 255
    largest_step = IntegerNet(net, octave_step(204800, 0, 64), CPU, active=8).at_sites(below)
    assert largest_step[0].max() == 819200 * 2896 // 1024
    assert largest_step[1].max() == 255


@pytest.mark.parametrize(("active", "all_octaves"), [(0, 11797 + 1 / 3), (8, 11989 + 1 / 3)])
def test_multiplications_are_those_that_the_function_says(
    active: int, all_octaves: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in every convolution of a 256 x 256 chunk, then summed over octaves as a large slide has them."""
    made = []
    convolve = whole_sums.convolve

    def counted(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        out = convolve(x, weight)
        made.append(out.shape[0] * out.shape[2] * out.shape[3] * math.prod(weight.shape))
        return out

    monkeypatch.setattr(whole_sums, "convolve", counted)
    net = IntegerNet(prior().nets[0], STEP, CPU, active=active)
    a_pixel = {}
    for up in (False, True):
        made.clear()
        run(net, "count", (128, 128), hand_up=up)
        a_pixel[up] = sum(made) / 256**2
    # Octave 0 hands nothing up; those below it have 1/4 + 1/16 + ... = 1/3 of its pixels.
    assert a_pixel[False] + a_pixel[True] / 3 == pytest.approx(all_octaves, rel=1e-12)
    assert mac_per_px(OctavesConfig(), active=active > 0) == pytest.approx(all_octaves, rel=1e-12)
    assert all_octaves <= 12000


def test_layers_are_those_of_the_spec() -> None:
    spec = (Path(__file__).parents[1] / "formats" / "SPEC.md").read_text(encoding="utf-8")
    part = spec.split("### B.3")[1].split("### B.4")[0]
    said_there: dict[str, tuple[int, ...]] = {}
    for name, which, outputs, taken, kernel in re.findall(
        r"^\| `([\w.]+)`(?:, p(.*?))? \| (\d+) \| (\d+) \| (\d) \|", part, re.M
    ):
        passes = {"": "", " from 0 to 3": "0123", " = 0 and 1": "01", " = 2 and 3": "23"}[which]
        for p in passes or "p":
            said_there[name.replace(".p.", f".{p}.")] = (int(outputs), int(taken), int(kernel), int(kernel))
    assert said_there == layer_shapes()
    assert {k: v[:3] for k, v in said_there.items()} == reference.LAYERS
