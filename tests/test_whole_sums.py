"""Sums of whole numbers are exact, in whatever order and on whatever device they are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrwsi.fields import field, whole_sums


def by_hand(x: np.ndarray, weight: np.ndarray, dilation: int) -> np.ndarray:
    """(B, O, h, w) int64, tap by tap, of every output alone."""
    k, (h, w) = weight.shape[2], (n - (weight.shape[2] - 1) * dilation for n in x.shape[2:])
    out = np.zeros((len(x), len(weight), h, w), np.int64)
    for b, o, y, i in np.ndindex(*out.shape):
        window = x[b, :, y : y + (k - 1) * dilation + 1 : dilation, i : i + (k - 1) * dilation + 1 : dilation]
        out[b, o, y, i] = (window * weight[o]).sum()
    return out


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 3), (5, 2)])
def test_they_are_those_of_integers(kernel: int, dilation: int) -> None:
    rng = np.random.default_rng(kernel)
    x = rng.integers(-255, 256, (2, 7, 13, 16))
    weight = rng.integers(-127, 128, (5, 7, kernel, kernel))
    found = whole_sums.convolve(torch.from_numpy(x).bfloat16(), torch.from_numpy(weight).float(), dilation)
    assert found.dtype == torch.float32
    assert (found.numpy() == by_hand(x, weight, dilation)).all()


def test_terms_that_fp32_would_lose_are_kept() -> None:
    """2^24 and 1 and -2^24 are 1; in fp32, from the left, 0."""
    x = torch.tensor([2.0**24, 1, -(2.0**24)]).view(1, 3, 1, 1)
    assert whole_sums.convolve(x, torch.ones(1, 3, 1, 1)).item() == 1


def test_other_devices_than_the_cpu_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `meta` tensors stand for is any device whose convolutions nobody vouches for."""
    taken = []
    convolve = whole_sums.convolve

    def counted(x: torch.Tensor, weight: torch.Tensor, dilation: int) -> torch.Tensor:
        taken.append(x.device.type)
        return convolve(x, weight, dilation)

    monkeypatch.setattr(whole_sums, "convolve", counted)
    for device in ("cpu", "meta"):
        x = torch.ones(1, 2, 8, 8, device=device)
        found = field._convolve(x, torch.ones(4, 2, 3, 3, device=device), 2)
        assert (found.shape, found.dtype) == ((1, 4, 4, 4), torch.float32)
    assert taken == ["meta"]
