"""What may be asked of which model, and what is meant where nothing is asked."""

from __future__ import annotations

from typing import Any

import pytest

from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class, model_names
from inrwsi.options import (
    FIELD_TARGETS,
    OF_FIELDS,
    OF_OCTAVES,
    TARGETS,
    EncodeOptions,
    FieldSettings,
    OctavesSettings,
    flag,
    known_models,
)

VALUES: dict[str, Any] = {
    **{"quality": 50, "psnr_db": 40, "ratio": 20, "size_bytes": 10_000, "effort": "best", "self_contained": True},
    "tune": "ms-ssim",
    **{"bpp": 2.0, "passes": 3, "tile_px": 256, "weight_bits": 16, "prior": "jpegxl"},
    "prior_quality": 40,
    "loss": "segmentation",
    "loss_network": "net.pt",
    "optimiser": "soap",
}


def test_defaults() -> None:
    assert EncodeOptions().model == "octaves"
    assert EncodeOptions().octaves == OctavesSettings(quality=60, effort="default")
    settings = EncodeOptions("cinr").field(tile_px=512, passes=6)
    assert settings == FieldSettings(passes=6, tile_px=512, weight_bits=8)


@pytest.mark.parametrize("name", ["psnr_db", "ratio", "size_bytes"])
def test_targets_of_all_models(name: str) -> None:
    settings = EncodeOptions("siren", **{name: VALUES[name]}).field(tile_px=128, passes=60)
    assert [getattr(settings, target) for target in FIELD_TARGETS if target != name] == [None, None, None]
    assert getattr(settings, name) == getattr(EncodeOptions(**{name: VALUES[name]}).octaves, name) == VALUES[name]


@pytest.mark.parametrize("name", OF_OCTAVES)
def test_settings_of_octaves(name: str) -> None:
    settings = EncodeOptions(**{name: VALUES[name]}).octaves
    assert getattr(settings, name) == VALUES[name]
    assert sum(getattr(settings, target) is not None for target in TARGETS) == 1
    with pytest.raises(UsageError, match=f"{flag(name)} is a setting of model octaves, and the model is cinr"):
        EncodeOptions("cinr", **{name: VALUES[name]})


@pytest.mark.parametrize("name", OF_FIELDS)
def test_settings_of_fitted_models(name: str) -> None:
    more = {"prior_quality": {"prior": "jpeg"}, "loss_network": {"loss": "perceptual"}}.get(name, {})
    settings = EncodeOptions("siren", **more, **{name: VALUES[name]}).field(tile_px=128, passes=60)
    assert getattr(settings, name) == VALUES[name]
    sentence = f"{flag(name)} is a setting of models that are fitted, and the model is octaves; leave it out"
    with pytest.raises(UsageError, match=sentence):
        EncodeOptions(**{name: VALUES[name]})


def test_a_network_is_of_losses_that_take_one() -> None:
    with pytest.raises(UsageError, match="--loss perceptual is by a network's features, and there is no --loss-net"):
        EncodeOptions("siren", loss="perceptual")
    for loss in ("stain", None):
        sentence = f"--loss-network is net.pt, and --loss is {loss or 'mse'}; it should be one of segmentation, perce"
        with pytest.raises(UsageError, match=sentence):
            EncodeOptions("siren", loss=loss, loss_network="net.pt")


def test_one_target() -> None:
    with pytest.raises(UsageError, match="--quality and --size are given; give one of them"):
        EncodeOptions(quality=50, size_bytes=1000)
    with pytest.raises(UsageError, match="--ratio and --bpp are given; give one of them"):
        EncodeOptions("ngp", ratio=50, bpp=1)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model", "mlp", "--model is mlp; it should be one of octaves, cinr, conv-inr, engp, fourier, inif, ngp"),
        ("tune", "ssim", "--tune is ssim; it should be one of balanced, psnr, ms-ssim"),
        ("quality", 101, "--quality is 101; it should be from 1 to 100"),
        ("psnr_db", 9, "--psnr is 9; it should be from 10 to 70 dB"),
        ("ratio", 0.5, "--ratio is 0.5; it should be from 1 to 1,000,000"),
        ("size_bytes", 0, "--size is 0; it should be at least 1 byte"),
        ("effort", "some", "--effort is some; it should be one of fast, default, best"),
        ("seed", -1, "--seed is -1"),
    ],
)
def test_values_out_of_range(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        EncodeOptions(**{name: value})


def test_a_model_is_a_file_with_its_config() -> None:
    assert known_models() == ("octaves", *model_names())
    for name in model_names():
        config = config_class(name).for_bpp(6.0, 128, 3, 8)
        assert config.name == name
    with pytest.raises(KeyError):
        config_class("octaves")
