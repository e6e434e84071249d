"""The float wavelet: exactly invertible, nearly orthonormal, and its low band is a picture at the same scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inrwsi.fields import wavelet_planes
from inrwsi.fields.wavelet import border_details, forward97, inverse97


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("hw", [(2, 2), (2, 10), (4, 4), (32, 18), (64, 64)])
def test_the_inverse_is_exact(hw: tuple[int, int]) -> None:
    x = noise(2, 3, *hw)
    below, details = forward97(x)
    assert below.shape == (2, 3, hw[0] // 2, hw[1] // 2)
    assert details.shape == (2, 9, hw[0] // 2, hw[1] // 2)
    assert (inverse97(below, details) - x).abs().max() < 1e-12
    assert (forward97(inverse97(below, details))[1] - details).abs().max() < 1e-12
    single = forward97(x.float())
    assert (inverse97(*single) - x.float()).abs().max() < 1e-5


@pytest.mark.parametrize("hw", [(2, 2), (2, 10), (12, 2), (40, 24), (130, 258)])
def test_on_planes_it_is_the_same_to_the_bit(hw: tuple[int, int]) -> None:
    x = (40 * noise(1, 3, *hw)).float()
    below, details = wavelet_planes.forward97(x[0].numpy())
    torch_below, torch_details = forward97(x)
    assert torch.equal(torch.from_numpy(below), torch_below[0])
    assert torch.equal(torch.from_numpy(details), torch_details[0])
    assert (wavelet_planes.below97(x[0].numpy()) == below).all()


def test_energy_is_kept_nearly() -> None:
    x = noise(1, 3, 128, 128)
    below, details = forward97(x)
    kept = (4 * below.square().sum() + details.square().sum()) / x.square().sum()
    assert kept == pytest.approx(1, abs=0.05)


def test_every_basis_function_has_nearly_unit_energy() -> None:
    norms = []
    for band in range(4):
        below, details = torch.zeros(1, 1, 32, 32).double(), torch.zeros(1, 3, 32, 32).double()
        if band == 0:
            below[..., 16, 16] = 0.5  # the octave below is at half the orthonormal scale
        else:
            details[:, band - 1, 16, 16] = 1
        norms.append(float(inverse97(below, details).square().sum()))
    assert norms == pytest.approx([0.9662, 1.0227, 1.0227, 1.0825], abs=1e-4)


def test_flat_pictures_have_no_details_and_keep_their_level() -> None:
    below, details = forward97(torch.full((1, 3, 12, 20), 7.0).double())
    assert (below - 7).abs().max() < 1e-12
    assert details.abs().max() < 1e-12


def test_bands_are_horizontal_vertical_and_diagonal_of_each_channel() -> None:
    x = torch.zeros(1, 3, 32, 32).double()
    x[0, 0] = torch.tensor([1.0, -1.0]).repeat(16)
    x[0, 1] = x[0, 0].T
    x[0, 2] = x[0, 0] * x[0, 1]
    energy = forward97(x)[1][0].square().sum((1, 2)).reshape(3, 3)
    assert (energy.argmax(1) == torch.arange(3)).all()
    assert (energy.max(1).values > 0.99 * energy.sum(1)).all()


def test_turning_the_picture_turns_the_bands() -> None:
    x = noise(1, 1, 16, 24)
    below, details = forward97(x)
    turned_below, turned = forward97(x.transpose(-1, -2))
    assert (turned_below - below.transpose(-1, -2)).abs().max() < 1e-12
    assert (turned[:, [1, 0, 2]] - details.transpose(-1, -2)).abs().max() < 1e-12


def test_details_make_up_for_what_is_wrong_below_at_the_borders() -> None:
    """White error below shows twice in a line's last pixel; with its answer, at borders no more than elsewhere."""
    torch.manual_seed(1)
    x = torch.randn(8, 3, 64, 64)
    low, details = forward97(x)
    missing = torch.randn_like(low)
    plain, answered = (
        ((inverse97(low - missing, details + part) - x) ** 2).mean((0, 1)) for part in (0, border_details(missing))
    )
    inside = plain[16:48, 16:48].mean()
    for line, before in ((plain[-1], 1.2), (plain[:, -1], 1.2)):
        assert line[16:48].mean() / inside > before
    for near in (answered[-2:, 16:48], answered[16:48, -2:], answered[:2, 16:48], answered[16:48, :2]):
        assert near.mean() / inside < 1.12
    assert torch.allclose(answered[12:-12, 12:-12], plain[12:-12, 12:-12])
    assert answered.mean() < plain.mean()
