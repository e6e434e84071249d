"""Losses by their formulas, their gradients, and what a fit by them makes better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fit.losses import MS_SSIM_WEIGHT, SCALE_WEIGHTS, STAIN_WEIGHT, Loss, ms_ssim, stains
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr, ssim_maps
from inrwsi.nuclei import EOSIN, HAEMATOXYLIN
from inrwsi.options import LOSSES, EncodeOptions
from tests.test_model_files import picture_px


def pair(side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (1, 3, side, side) fp64 pictures near each other, inside 0..255."""
    drawn = np.random.default_rng(0)
    a = drawn.uniform(40, 200, (1, 3, side, side))
    return torch.from_numpy(a), torch.from_numpy(a + drawn.normal(0, 12, a.shape))


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    y, target = pair()
    weights = torch.from_numpy(np.random.default_rng(1).uniform(1, 5, (1, 1, 12, 12))) if name == "nuclei" else None
    loss = Loss(name)
    assert loss(target, target, weights) == pytest.approx(0, abs=1e-9)
    assert torch.autograd.gradcheck(lambda y: loss(y, target, weights), y.requires_grad_())


def test_squared_error_and_its_weights() -> None:
    y, target = torch.zeros(1, 3, 2, 1), torch.zeros(1, 3, 2, 1)
    y[:, :, 0] = 127.5
    assert Loss()(y, target) == pytest.approx(0.5)
    assert Loss("nuclei")(y, target, torch.tensor([[[[5.0], [1.0]]]])) == pytest.approx(5 / 6)


def test_stains_are_what_was_mixed() -> None:
    """Beer and Lambert: 0.6 of haematoxylin and 0.3 of eosin come out again, and the loss is of their errors."""
    vectors = [np.array(v) / np.linalg.norm(v) for v in (HAEMATOXYLIN, EOSIN)]
    rgb = 256 * 10 ** -(0.6 * vectors[0] + 0.3 * vectors[1]) - 1
    picture = torch.from_numpy(rgb)[None, :, None, None]
    assert stains(picture)[0, :, 0, 0].tolist() == pytest.approx([0.6, 0.3])
    other = torch.from_numpy(256 * 10 ** -(0.5 * vectors[0] + 0.3 * vectors[1]) - 1)[None, :, None, None]
    more = Loss("stain")(other, picture) - Loss()(other, picture)
    assert more == pytest.approx(STAIN_WEIGHT * 0.1**2 / 2)


def test_ms_ssim() -> None:
    """One scale is SSIM as `metrics` has it; two are by hand of its parts; below a window there is nothing to say."""
    a, b = (x.clamp(0, 255).round() for x in pair(21))
    want, _ = ssim_maps(*(x[0, 0].numpy().astype(np.uint8) for x in (a, b)))
    assert ms_ssim(a[:, :1], b[:, :1]) == pytest.approx(float(want.mean()), abs=1e-6)
    assert ms_ssim(a[..., :10], b[..., :10]) == 1
    a, b = (x.clamp(0, 255).round() for x in pair(22))
    _, contrast = ssim_maps(*(x[0, 0].numpy().astype(np.uint8) for x in (a, b)))
    half = [torch.nn.functional.avg_pool2d(x[:, :1], 2) for x in (a, b)]
    first, second = (w / sum(SCALE_WEIGHTS[:2]) for w in SCALE_WEIGHTS[:2])
    by_hand = float(contrast.mean()) ** first * float(ms_ssim(*half)) ** second
    assert ms_ssim(a[:, :1], b[:, :1]) == pytest.approx(by_hand, abs=1e-6)
    more = Loss("ms-ssim")(a, b) - Loss()(a, b)
    assert more == pytest.approx(MS_SSIM_WEIGHT * (1 - float(ms_ssim(a, b))))


def test_a_nucleus_counts_five_times() -> None:
    """A dark disc of 12 px on pink, at 0.5 um a pixel and at 0.25, where it is twice as large."""
    y, x = np.mgrid[:96, :96]
    inside = (y - 48) ** 2 + (x - 40) ** 2 < 12**2
    rgb = np.where(inside[..., None], (90, 60, 140), (235, 190, 215)).astype(np.uint8)
    weights = Loss("nuclei").weights(rgb, 0.5)
    assert weights is not None
    assert weights.shape == (96, 96, 1)
    assert set(np.unique(weights)) == {1, 5}
    assert (weights[..., 0] == np.where(inside, 5, 1)).mean() > 0.98
    fine = Loss("nuclei").weights(rgb.repeat(2, 0).repeat(2, 1), 0.25)
    assert fine is not None
    assert np.array_equal(fine[::2, ::2], weights)
    assert Loss("stain").weights(rgb, 0.5) is None


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("name", "loss", "size_bytes"),
    [("siren", "ms-ssim", 4000), ("siren", "stain", 4000), ("inif", "nuclei", 4000), ("ngp", "stain", 60_000)],
)
def test_any_model_takes_any_loss(name: str, loss: str, size_bytes: int, tmp_path: Path) -> None:
    """The fit goes another way, and the picture is still there: the mean colour alone gives 15 dB."""
    pixels, found = picture_px(), []
    for number, given in enumerate((None, loss)):
        path = tmp_path / f"{number}.cinr"
        options = EncodeOptions(name, size_bytes=size_bytes, tile_px=72, passes=8, loss=given, device="cpu")
        with open_source(pixels) as source:
            encode(source, path, options)
        with Decoder(path, device="cpu") as decoder:
            found.append(decoder.read_region((0, 0), (136, 72)))
    assert not np.array_equal(*found)
    assert psnr(pixels, found[1]) > 19


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--loss stain is of pixels, and with --prior the field gives what lacks"):
        EncodeOptions("siren", loss="stain", prior="jpeg")
    with (
        open_source(picture_px()[..., :1]) as source,
        pytest.raises(UsageError, match="has 1 channel of 8 bits; --loss nuclei is of colour"),
    ):
        encode(source, tmp_path / "slide.cinr", EncodeOptions("siren", loss="nuclei"))
