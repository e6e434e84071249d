"""The integers between the entropy coder and the networks, against plain numpy and plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inrwsi.coding import sites
from inrwsi.fields.octaves_integer import PASSES, pass_taps
from tests import octaves_reference as reference

RNG = np.random.default_rng(5)
HW = ((2, 2), (2, 6), (6, 4), (10, 8))


def random_values(h: int, w: int, seed: int = 0) -> np.ndarray:
    """(h, w, 9) int32 coefficients, some of them beyond what networks see."""
    return np.random.default_rng(seed).integers(-3000, 3001, (h, w, 9)).astype(np.int32)


def test_logarithms_are_those_of_the_numbers() -> None:
    for value in [*range(1, 3000), *(2**n + d for n in range(2, 40) for d in (-1, 0, 1)), *range(3000, 204801, 997)]:
        found = sites.log2_fixed(value)
        # 16 bits by squaring, cut off: never above, and less than a unit below but for the squarings' own rounding.
        assert -1.01 <= found - math.log2(value) * 2**16 <= 1e-3, value
        if value & (value - 1) == 0:
            assert found == (value.bit_length() - 1) << 16


def test_what_networks_see_of_a_step() -> None:
    for step in (256, 257, 1000, 1024, 8192, 20480, 204800):
        log = (math.log2(step / 1024) - 3) / 4
        first, second = sites.step_logs(step)
        assert abs(first - 128 * log) <= 0.5 + 1e-3
        assert second == math.floor(first * first / 128 + 0.5)
        assert max(abs(first), abs(second)) <= 255
    assert sites.step_logs(8192) == (0, 0)
    assert sites.step_logs(256) == (-160, 200)


@pytest.mark.parametrize("hw", HW)
@pytest.mark.parametrize("step", [256, 5000, 204800])
def test_trunk_inputs(hw: tuple[int, int], step: int) -> None:
    below = RNG.integers(-32000, 32001, (3, *hw)).astype(np.int16)
    below[:, :1] //= 200  # where the clamps leave something to see
    features = RNG.integers(0, 256, (8, *hw)).astype(np.uint8)
    logs = RNG.integers(-255, 256, (*hw, 2)).astype(np.int16)
    steps = np.full(hw, step, np.int32)
    found = sites.trunk_inputs(below, features, steps, logs[..., :0])
    padded = np.pad(below.astype(np.int64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = sum(padded[:, y : y + hw[0], x : x + hw[1]] for y in range(3) for x in range(3))
    grey = np.floor((below.astype(np.int64) + 32) / 64).clip(-255, 255)
    high = np.array(
        [
            (2 * 128 * int(v) + 9 * step) // (18 * step)
            for v in (9 * below.astype(np.int64) - around).reshape(-1)
        ]
    ).reshape(below.shape)  # fmt: skip
    expected = np.concatenate((grey, high.clip(-255, 255), features)).transpose(1, 2, 0)
    assert found.dtype == np.int16
    assert (found.transpose(0, 2, 1) == expected).all()
    exact = (9 * below.astype(float) - around) / 9 * 128 / step
    assert np.abs(np.clip(exact, -255, 255) - found[:, 3:6].transpose(1, 0, 2)).max() <= 0.5 + 1e-9
    with_logs = sites.trunk_inputs(below, features, steps, logs).transpose(0, 2, 1)
    assert (with_logs == np.concatenate((expected, logs), 2)).all()
    # A site's high-pass is in its own step.
    steps[hw[0] // 2 :] *= 2
    own = sites.trunk_inputs(below, features, steps, logs)
    twice = sites.trunk_inputs(below, features, np.full(hw, 2 * step, np.int32), logs)
    assert (own[: hw[0] // 2, :14].transpose(0, 2, 1) == expected[: hw[0] // 2]).all()
    assert (own[hw[0] // 2 :] == twice[hw[0] // 2 :]).all()


def test_activity_is_that_of_the_spec() -> None:
    assert sites.ACTIVITY_FLOORS == reference.ACTIVITY_FLOORS
    for doubles_in, ends in ((8, (256, 1024, 2896)), (16, (512, 1024, 1722))):
        factors = sites.STEP_FACTORS[doubles_in]
        assert factors == reference.STEP_FACTORS[{8: "activity", 16: "half activity"}[doubles_in]]
        assert (factors[0], factors[16], factors[28]) == ends
    floors, scale = np.array(sites.ACTIVITY_FLOORS, np.int64), np.geomspace(1, 32000, 24)[:, None]
    brightness = np.clip(RNG.normal(0, 1, (24, 40)) * scale, -32000, 32000).astype(np.int16)
    found = sites.activity(brightness, floors)
    assert (found == reference.activity_index(brightness.astype(np.int64))).all()
    assert found.dtype == np.uint8
    assert found[0].max() <= 7  # of flat glass: a quarter to a half of the step
    assert set(range(7, 29)) <= set(found.reshape(-1).tolist())
    # 0 and 64 grey levels by turns: an activity of 2100.
    assert (sites.activity(np.where(np.indices((6, 6)).sum(0) % 2, 4096, 0).astype(np.int16), floors) >= 17).all()


@pytest.mark.parametrize("hw", HW)
def test_passes_fill_every_coefficient_once(hw: tuple[int, int]) -> None:
    h, w = hw
    values, count = np.zeros((h, w, 9), np.int32), 0
    for first, bands, white, _, _ in PASSES:
        pass_values = np.arange(1, h * w * bands // 2 + 1, dtype=np.int32) + count
        count += pass_values.size
        before = values.copy()
        symbols, means = np.divmod(pass_values, np.int32(16))
        shape = (2, h // 2, w // 2, bands)
        sites.place(values, symbols.reshape(shape), means.reshape(shape), first, white, 16)
        own = (np.add.outer(np.arange(h), np.arange(w)) % 2 == white)[..., None] & (
            (np.arange(9) >= first) & (np.arange(9) < first + bands)
        )
        assert (before[own] == 0).all()
        assert (values[~own] == before[~own]).all()
        # Rows of even number first, in each of them from the left, at each site band by band.
        order = [(i, j) for parity in (0, 1) for i in range(parity, h, 2) for j in range(w) if (i + j) % 2 == white]
        assert np.concatenate([values[i, j, first : first + bands] for i, j in order]).tolist() == pass_values.tolist()
    assert len(set(values.reshape(-1).tolist())) == count == h * w * 9


@pytest.mark.parametrize("hw", HW)
@pytest.mark.parametrize(("first", "bands", "pad"), [(0, 3, 2), (0, 3, 1), (0, 9, 1), (0, 9, 0), (3, 6, 1)])
def test_seen_inputs(hw: tuple[int, int], first: int, bands: int, pad: int) -> None:
    values = random_values(*hw)
    expected = np.floor((values[..., first : first + bands] + 2) / 4).clip(-255, 255)
    found = sites.seen_inputs(values, first, bands, pad)
    assert found.dtype == np.float32
    assert (found == np.pad(expected, ((pad, pad), (pad, pad), (0, 0)))).all()


@pytest.mark.parametrize("hw", HW)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_near_inputs_hold_all_that_a_kernel_finds_there(hw: tuple[int, int], number: int) -> None:
    """A convolution by gathered places is that of the whole kernel over what is decoded by then, and over zeros."""
    first, bands, white, seen, kernel = PASSES[number]
    values = random_values(*hw, seed=number)
    parity = np.add.outer(np.arange(hw[0]), np.arange(hw[1])) % 2
    values[..., first + bands :] = 0
    values[..., first : first + bands][parity == white] = 0
    if not white:
        values[..., first : first + bands] = 0
    padded = sites.seen_inputs(values, 0, seen, kernel // 2)
    weight = np.random.default_rng(number).integers(-127, 128, (seen, kernel, kernel))
    taps = pass_taps(number)
    found = sites.near_inputs(padded, kernel // 2, taps, white)
    assert found.shape == (2, hw[0] // 2, hw[1] // 2, {1: 36, 2: 27, 3: 51}[number])
    sums = found @ np.concatenate([weight[a:b, y, x] for y, x, a, b in taps])
    for half, i, x in np.ndindex(sums.shape):
        row, column = 2 * i + half, 2 * x + ((1 - half) if white else half)
        part = padded[row : row + kernel, column : column + kernel].transpose(2, 0, 1)
        assert sums[half, i, x] == (part * weight).sum()


@pytest.mark.parametrize("hw", HW)
def test_dequantise(hw: tuple[int, int]) -> None:
    values = random_values(*hw)
    values[0, 0] = [2**25, -(2**25), 8, -8, 0, 1, -1, 2**31 - 1, -(2**31)]
    inverse = np.array([1, 2**18, 256, 256, 80, 2048, 2048, 2**18, 2**18])
    steps = RNG.integers(256, 204801, hw).astype(np.int32)
    steps[0, 0], steps[-1, -1] = 256, 204800  # 16 of a unit's 1 / 1024, and the largest there is
    values[-1, -1] = values[0, 0]
    found = sites.dequantise(np.ascontiguousarray(values.transpose(2, 0, 1)), inverse, steps)
    expected = [
        [
            (int(v) * max(int(inverse[b]) * int(s) // 4096, 1) + 128) >> 8
            for v, s in zip(values[..., b].reshape(-1), steps.reshape(-1), strict=True)
        ]
        for b in range(9)
    ]
    assert found.dtype == np.int32
    assert (found == np.clip(expected, -(2**20), 2**20).reshape(3, 3, *hw)).all()
    assert found[0, 2, 0, 0] == 1  # half a unit of 1 / 64 grey level goes up
    assert found[1, 0, 0, 0] == 0


@pytest.mark.parametrize("hw", HW)
def test_residual_and_features_are_shuffled_to_pixels(hw: tuple[int, int]) -> None:
    h, w = hw
    out = RNG.integers(-(2**15), 2**15 + 1, (h, w, 12)).astype(np.float32)
    steps = RNG.integers(256, 204801, hw).astype(np.int32)
    found = sites.residual_pixels(out, steps)
    expected = (out.astype(np.int64) * steps[..., None] + 2048) >> 12
    assert found.dtype == np.int32
    assert (found == expected.reshape(h, w, 3, 2, 2).transpose(2, 0, 3, 1, 4).reshape(3, 2 * h, 2 * w)).all()
    up = RNG.integers(0, 256, (h, w, 32)).astype(np.float32)
    features = sites.shuffle_features(up)
    assert features.dtype == np.uint8
    assert (features == up.reshape(h, w, 8, 2, 2).transpose(2, 0, 3, 1, 4).reshape(8, 2 * h, 2 * w)).all()
