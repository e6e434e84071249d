"""PSNR and SSIM against hand-worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inrwsi.errors import UsageError
from inrwsi.metrics import SquaredError, luma_of, psnr, ssim_maps


def test_psnr_of_known_errors() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 255
    assert psnr(a, b) == pytest.approx(10 * math.log10(48), abs=1e-12)  # MSE = 255^2 / 48
    assert psnr(a, np.full_like(a, 1)) == pytest.approx(48.130803608679, abs=1e-9)
    assert psnr(b, a) == psnr(a, b)  # differences do not wrap around at 256
    assert psnr(a, a) == math.inf


def test_mask_counts_its_pixels_alone() -> None:
    a = np.zeros((2, 3, 3), np.uint8)
    b = a.copy()
    b[0, 0] = (10, 20, 30)
    mask = np.zeros((2, 3), bool)
    mask[0, :2] = True
    error = SquaredError()
    error.add(a, b, mask)
    assert (error.squares, error.samples) == (1400, 6)
    assert psnr(a, b, ~mask) == math.inf
    assert math.isnan(psnr(a, b, mask & ~mask))


def test_parts_in_any_order_give_the_whole() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 256, (2, 90, 70, 3), np.uint8)
    parts = SquaredError()
    for rows in (slice(60, 90), slice(0, 17), slice(17, 60)):
        parts.add(a[rows], b[rows])
    expected = np.mean((a.astype(np.float64) - b) ** 2)
    assert parts.mse == pytest.approx(expected, rel=1e-14)
    assert parts.psnr_db == psnr(a, b)


def test_what_does_not_fit_is_refused() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="one shape"):
        psnr(a, a[:3])
    with pytest.raises(UsageError, match="uint16"):
        psnr(a, a.astype(np.uint16))
    with pytest.raises(UsageError, match="mask must be bool"):
        psnr(a, a, np.ones((4, 4), np.uint8))


def test_ssim_of_known_pictures() -> None:
    a, b = np.full((11, 13), 60, np.float32), np.full((11, 13), 90, np.float32)
    ssim, structure = ssim_maps(a, b)
    luminance = (2 * 60 * 90 + 2.55**2) / (60**2 + 90**2 + 2.55**2)
    assert np.allclose(ssim, np.full((1, 3), luminance), atol=1e-6)  # flat pictures differ by luminance alone
    assert np.allclose(structure, np.ones((1, 3)), atol=1e-6)
    assert ssim_maps(a[:10], b[:10])[0].shape == (0, 3)
    assert ssim_maps(a[:, :4], b[:, :4])[1].shape == (1, 0)
    rng = np.random.default_rng(2)
    p, q = rng.integers(0, 256, (2, 11, 11)).astype(np.float32)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 4.5)
    window /= window.sum()
    mean_p, mean_q = (window * p).sum(), (window * q).sum()
    var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
    want = (2 * (window * (p - mean_p) * (q - mean_q)).sum() + 7.65**2) / (var_p + var_q + 7.65**2)
    ssim, structure = ssim_maps(p, q)
    assert structure.item() == pytest.approx(want, abs=1e-6)
    assert ssim.item() == pytest.approx(
        want * (2 * mean_p * mean_q + 2.55**2) / (mean_p**2 + mean_q**2 + 2.55**2), abs=1e-6
    )


def test_luma_is_bt_601() -> None:
    assert luma_of(np.array([[[10, 20, 40]]], np.uint8)).tolist() == [[pytest.approx(19.29)]]
    assert luma_of(np.array([[[255]], [[7]]], np.uint8)).tolist() == [[255], [7]]
