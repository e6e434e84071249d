"""Losses by their formulas, their gradients, and what a fit by them makes better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.models import config_class
from inrwsi.fit.loss_network import soft_dice_error
from inrwsi.fit.losses import (
    MS_SSIM_WEIGHT,
    SCALE_WEIGHTS,
    SEGMENTATION_WEIGHT,
    STAIN_WEIGHT,
    Loss,
    ms_ssim,
    soft_nuclei,
    stains,
)
from inrwsi.fit.networks import fit_tile
from inrwsi.fit.patches import phases
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr, ssim_maps
from inrwsi.nuclei import EOSIN, HAEMATOXYLIN, nuclei_map
from inrwsi.options import LOSSES, EncodeOptions
from inrwsi.sample import sample_region
from tests.test_model_files import picture_px

CPU = torch.device("cpu")


def pair(side: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (1, 3, side, side) fp64 pictures near each other, inside 0..255."""
    drawn = np.random.default_rng(0)
    a = drawn.uniform(40, 200, (1, 3, side, side))
    return torch.from_numpy(a), torch.from_numpy(a + drawn.normal(0, 12, a.shape))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "perceptual"])
def test_gradients(name: str) -> None:
    y, target = pair()
    drawn = torch.from_numpy(np.random.default_rng(1).uniform(0.2, 0.5, (1, 1, 12, 12)))
    guide = {"nuclei": {"weights": 10 * drawn}, "segmentation": {"thresholds": drawn}}.get(name, {})
    loss = Loss(name)
    assert loss(target, target, **guide) == pytest.approx(0, abs=1e-9)
    assert loss(y, target, **guide) > 0
    assert torch.autograd.gradcheck(lambda y: loss(y, target, **guide), y.requires_grad_())


def test_squared_error_and_its_weights() -> None:
    y, target = torch.zeros(1, 3, 2, 1), torch.zeros(1, 3, 2, 1)
    y[:, :, 0] = 127.5
    assert Loss()(y, target) == pytest.approx(0.5)
    assert Loss("nuclei")(y, target, weights=torch.tensor([[[[5.0], [1.0]]]])) == pytest.approx(5 / 6)


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
    weights = Loss("nuclei").guide(rgb)["weights"]
    assert weights.shape == (96, 96, 1)
    assert set(np.unique(weights)) == {1, 5}
    assert (weights[..., 0] == np.where(inside, 5, 1)).mean() > 0.98
    twice = rgb.repeat(2, 0).repeat(2, 1)
    fine = Loss("nuclei", mpp_um=0.25).guide(twice)["weights"]
    assert np.array_equal(fine[::2, ::2], weights)
    assert Loss("stain").guide(rgb) == {}
    assert list(Loss("stain").guide(rgb, rgb)) == ["base"]


def test_soft_nuclei_are_the_classical_ones() -> None:
    """More than half where the classical map is, on tissue; also at half the pixel size; and Dice of both by hand."""
    rgb = sample_region((900, 900), (136, 136), size_wh=(2048, 2048), seed=1)
    classical = nuclei_map(rgb)
    for mpp_um, pixels in ((0.5, rgb), (0.25, rgb.repeat(2, 0).repeat(2, 1))):
        loss, factor = Loss("segmentation", mpp_um), round(0.5 / mpp_um)
        thresholds = torch.from_numpy(loss.guide(pixels)["thresholds"])[None, None, ..., 0]
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        soft = soft_nuclei(picture, thresholds, factor)[0, 0].numpy()
        inside = soft[::factor, ::factor] > 0.5
        assert 2 * (inside & classical).sum() / (inside.sum() + classical.sum()) > 0.9
        pale = torch.full_like(picture, 220.0)
        more = loss(pale, picture, thresholds=thresholds) - Loss()(pale, picture)
        assert more == pytest.approx(SEGMENTATION_WEIGHT * (1 - 1 / (1 + (soft**2).sum())), rel=1e-3)
    found, wanted = torch.tensor([[[[0.5, 1.0]], [[0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]]])
    assert soft_dice_error(found, wanted) == pytest.approx((1 - (2 * 0.5 + 1) / (0.25 + 1 + 1 + 1)) / 2)


@pytest.mark.parametrize("name", ["ms-ssim", "stain", "segmentation"])
def test_over_a_base_layer_it_is_of_the_picture(name: str) -> None:
    """The loss of what the field and the base layer give together, whatever the base layer."""
    y, target = pair(24)
    guide = {"thresholds": torch.full((1, 1, 24, 24), 0.6)} if name == "segmentation" else {}
    base = torch.from_numpy(np.random.default_rng(2).uniform(60, 190, (1, 3, 24, 24)))
    loss = Loss(name)
    over = loss(y - base + 128, target - base + 128, base=base, **guide)
    assert over == pytest.approx(float(loss(y, target, **guide)), rel=1e-9)
    assert over > Loss()(y, target) + 2e-4


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("name", "loss", "prior"),
    [
        *(("siren", "ms-ssim", None), ("siren", "stain", None), ("inif", "nuclei", None)),
        *(("siren", "segmentation", None), ("ngp", "segmentation", "jpeg")),
    ],
)
def test_any_model_takes_any_loss(name: str, loss: str, prior: str | None, tmp_path: Path) -> None:
    """The fit goes another way, and the picture is still there: the mean colour alone gives 15 dB."""
    pixels, found = picture_px(), []
    for number, given in enumerate((None, loss)):
        path = tmp_path / f"{number}.cinr"
        asked = {"tile_px": 72, **({"size_bytes": 63_000, "passes": 2} if prior else {"size_bytes": 4000, "passes": 8})}
        options = EncodeOptions(name, prior=prior, loss=given, device="cpu", **asked)
        with open_source(pixels) as source:
            encode(source, path, options)
        with Decoder(path, device="cpu") as decoder:
            found.append(decoder.read_region((0, 0), (136, 72)))
    assert not np.array_equal(*found)
    assert psnr(pixels, found[1]) > 19


@pytest.mark.usefixtures("few_steps")
def test_over_a_base_layer_ms_ssim_is_the_pictures(tmp_path: Path) -> None:
    """Fitted by it the picture is nearer by MS-SSIM than by squared error, at equal bytes."""
    pixels, found = picture_px(), {}
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    for loss in ("mse", "ms-ssim"):
        path = tmp_path / f"{loss}.cinr"
        options = EncodeOptions("siren", size_bytes=4000, tile_px=72, passes=30, prior="jpeg", prior_quality=12)
        with open_source(pixels) as source:
            encode(source, path, replace(options, loss=loss, device="cpu"))
        with Decoder(path, device="cpu") as decoder:
            decoded = torch.from_numpy(decoder.read_region((0, 0), (136, 72))).permute(2, 0, 1)[None].float()
        assert path.stat().st_size == pytest.approx(4000, rel=0.02)
        found[loss] = float(ms_ssim(decoded, picture))
    assert found["ms-ssim"] > found["mse"] + 0.003
    assert found["mse"] > 0.94


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    with (
        open_source(picture_px()[..., :1]) as source,
        pytest.raises(UsageError, match="has 1 channel of 8 bits; --loss nuclei is of colour"),
    ):
        encode(source, tmp_path / "slide.cinr", EncodeOptions("siren", loss="nuclei"))


@pytest.mark.parametrize(("passes", "guided"), [(1, 1), (5, 2), (10, 4)])
def test_models_of_pixels_see_patches_in_their_last_passes(passes: int, guided: int) -> None:
    """Of 64 pixels a side, one a step, with what the loss knows of these very pixels; before that, pixels apart."""
    seen: list[tuple[tuple[int, ...], bool]] = []

    class Spy(Loss):
        def __call__(self, y: torch.Tensor, target: torch.Tensor, **guide: torch.Tensor) -> torch.Tensor:
            seen.append((tuple(y.shape), torch.equal(guide["base"], 255 - target)))
            return super().__call__(y, target)

    pixels = sample_region((900, 900), (72, 72), size_wh=(2048, 2048), seed=1)
    config = config_class("siren").for_bpp(2, 72, 3, 8)
    assert isinstance(config, CoordinateConfig)
    guide = {"base": 255 - pixels}
    for _ in fit_tile(config, 72, pixels, passes=passes, seed=(0,), device=CPU, loss=Spy("stain"), guide=guide):
        pass
    assert len(seen) == passes * len(phases((72, 72), 1024, np.random.default_rng(0)))
    seen.clear()
    for _ in fit_tile(config, 72, pixels, passes=passes, seed=(0,), device=CPU, loss=Spy("ms-ssim"), guide=guide):
        pass
    assert set(seen) == {((1, 3, 64, 64), True)}
    assert 4 * guided <= len(seen) <= 9 * guided


def test_a_loss_without_what_it_needs_is_no_squared_error() -> None:
    for name in ("segmentation", "perceptual", "other"):
        with pytest.raises(ValueError, match=f"there is no loss '{name}', or it lacks its network or its thresholds"):
            Loss(name)(*pair())
