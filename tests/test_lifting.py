"""Integers to pixels: the inverse wavelet against the one in floats, and the inverse colour transform."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from inrwsi.coding import lifting
from inrwsi.fields.wavelet import inverse97
from tests.octaves_reference import draws, lift

# Eight roundings, and constants of 13 bits: what they come to, in 1 / 64 grey level. A twelfth of a grey level.
MOST_ERROR = 5.5
GOLDEN = "9adaf7dfc3dbfafeeed2659f79318eecf028c16eaa28e08a560b38c7497b48ec"


def lifted(below: np.ndarray, details: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
    _, h, w = below.shape
    none = np.zeros((3, 2 * h, 2 * w), np.int32)
    return lifting.inverse97(below, details, none if residual is None else residual)


@pytest.mark.parametrize("hw", [(1, 1), (1, 8), (2, 2), (8, 8), (40, 56), (2, 40)])
@pytest.mark.parametrize("most", [0, 64, 1000, 16000])
def test_it_is_the_wavelet_of_the_training(hw: tuple[int, int], most: int) -> None:
    rng = np.random.default_rng(most)
    below = rng.integers(-14000, 14001, (3, *hw)).astype(np.int16)
    details = rng.integers(-most, most + 1, (3, 3, *hw)).astype(np.int32)
    found = lifted(below, details)
    assert found.dtype == np.int16
    floats = (torch.from_numpy(x.astype(np.float64))[None] for x in (below, details.reshape(9, *hw)))
    expected = inverse97(*floats)[0].numpy().clip(-lifting.PIXEL_MAX, lifting.PIXEL_MAX)
    assert np.abs(found - expected).max() < MOST_ERROR


def test_it_is_the_wavelet_of_the_spec_and_golden() -> None:
    below = draws("lift below", -32000, 32000, (3, 6, 10)).astype(np.int16)
    details = draws("lift details", -(2**20), 2**20, (3, 3, 6, 10)).astype(np.int32)
    details[:, :, 3:] >>= 12
    residual = draws("lift residual", -5000, 5000, (3, 12, 20)).astype(np.int32)
    found = lifted(below, details, residual)
    expected = lift(below.astype(np.int64), details.reshape(9, 6, 10).astype(np.int64)) + residual
    assert (found == expected.clip(-32000, 32000)).all()
    assert hashlib.sha256(found.astype("<i2").tobytes()).hexdigest() == GOLDEN


def test_nothing_overflows_whatever_a_file_says() -> None:
    for signs in range(16):
        below = np.full((3, 8, 8), 32000 if signs & 1 else -32000, np.int16)
        details = np.full((3, 3, 8, 8), 2**20, np.int32)
        for band in range(3):
            details[:, band] *= 1 if signs >> band & 2 else -1
        details[:, :, ::2, 1::2] *= -1
        expected = lift(below.astype(np.int64), details.reshape(9, 8, 8).astype(np.int64))
        assert np.abs(expected).max() < 2**31
        assert (lifted(below, details) == expected.clip(-32000, 32000)).all()


def test_without_details_a_flat_octave_stays_flat() -> None:
    nothing = np.zeros((3, 3, 4, 4), np.int32)
    for level in range(-441 * 64, 441 * 64, 61):
        found = lifted(np.full((3, 4, 4), level, np.int16), nothing)
        assert np.abs(found.astype(int) - level).max() <= MOST_ERROR
    assert not lifted(np.zeros((3, 4, 4), np.int16), nothing).any()


def test_the_residual_is_added_and_clamped() -> None:
    below, nothing = np.zeros((3, 2, 2), np.int16), np.zeros((3, 3, 2, 2), np.int32)
    residual = np.arange(48, dtype=np.int32).reshape(3, 4, 4) * 2000 - 40000
    assert (lifted(below, nothing, residual) == residual.clip(-32000, 32000)).all()


def test_colours_round_to_the_nearest_level() -> None:
    unit = np.eye(3, dtype=np.int64) << 14
    pixels = np.arange(-96, 16480, dtype=np.int16)[None, None].repeat(3, 0)
    found = lifting.to_rgb(np.ascontiguousarray(pixels), unit, np.array([0, 64, 128], np.int64))
    for channel in range(3):
        expected = np.floor((pixels[0, 0].astype(int) + 64 * channel + 32) / 64).clip(0, 255)
        assert (found[0, :, channel] == expected).all()
    assert found.dtype == np.uint8


def test_colours_of_any_matrix_stay_in_range() -> None:
    matrix = np.full((3, 3), 16385, np.int64)
    for level, shown in ((32000, 255), (-32000, 0)):
        found = lifting.to_rgb(np.full((3, 2, 2), level, np.int16), matrix, np.full(3, 16320, np.int64))
        assert (found == shown).all()
