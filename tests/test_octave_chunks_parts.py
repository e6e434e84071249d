"""Chunks of model `octaves`: blank ones, parts of one, thresholds, and what the networks cannot take."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import inrwsi
from inrwsi import octave_choices, octave_chunks
from inrwsi.cli.main import main
from inrwsi.colour import Klt
from inrwsi.errors import UnsupportedVersion
from inrwsi.fields.octaves_model import FEATURES, Decoded, OctavesModel
from inrwsi.fields.wavelet import forward97
from inrwsi.fit.refine import QUICK
from inrwsi.octave_chunks import MOST_SYMBOL, ChunkCoder
from inrwsi.sample import sample_region
from tests import octaves_reference as reference
from tests.test_octave_chunks import CPU, MATRIX, MODEL, coder_of, parent_of, released
from tests.test_octaves_integer import prior


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (243, 242, 244), (0, 255, 0), (200,)])
def test_blank_chunks_count_as_their_colour(colour: tuple[int, ...]) -> None:
    rgb = np.array([[[200, 30, 90], [10, 220, 140]], [[40, 50, 60], [250, 240, 230]]], np.uint8)
    klt = Klt.of(rgb)
    model = OctavesModel("0" * 64, 20480, sum(klt.matrix, ()), klt.mean)
    coder = coder_of(prior(), model)
    found = coder.blank(colour, (5, 3), 2)
    pixels, features = reference.blank(dataclasses.asdict(model), colour, (5, 3))
    assert (found.pixels == pixels).all()
    assert (found.features == features).all()
    assert found.pixels.dtype == np.int16
    shown = coder.rgb(found)
    assert np.abs(shown.astype(int) - np.array(colour)).max() <= 1
    assert (shown == reference.to_rgb(dataclasses.asdict(model), pixels)).all()
    assert coder.blank(colour, (5, 3), 0).features is None


def test_a_matrix_that_is_no_rotation_stays_within_16_bits() -> None:
    model = dataclasses.replace(MODEL, matrix=(16385,) * 9, mean=(0, 0, 0))
    assert (coder_of(prior(), model).blank((255, 255, 255), (2, 2), 1).pixels == 32000).all()
    assert (reference.blank(dataclasses.asdict(model), (255,), (2, 2))[0] == 32000).all()


def test_what_the_networks_cannot_take_is_refused() -> None:
    coder, wh = coder_of(prior()), (8, 8)
    with pytest.raises(ValueError, match="handed nothing up"):
        coder.decode(0, b"\0", Decoded(np.zeros((3, 4, 4), np.int16), None), wh)
    with pytest.raises(UnsupportedVersion, match="prior 0000000000000000"):
        ChunkCoder(MODEL, None, CPU)


def test_components_and_the_octave_below() -> None:
    coder = coder_of(prior(), encoder=True)
    rgb = sample_region((900, 900), (21, 14), size_wh=(2048, 2048), seed=1)
    target = coder.components(rgb)
    assert target.dtype == np.float32
    assert target.shape == (3, 14, 21)
    expected = (rgb - np.array(MODEL.mean) / 64) @ (np.array(MATRIX).reshape(3, 3).T / 2**14)
    assert np.abs(target - expected.transpose(2, 0, 1)).max() < 1e-3
    padded = np.concatenate((target, target[..., -1:]), -1)
    assert (coder.below(target) == forward97(torch.from_numpy(padded)[None])[0][0].numpy()).all()
    assert coder.below(target).shape == (3, 7, 11)
    assert coder.below(target[:, :1, :1]).shape == (3, 1, 1)


def test_a_part_of_a_chunk() -> None:
    whole = parent_of("cut", (16, 12))
    part = whole.cut(2, 1, 3, 4)
    assert (part.pixels == whole.pixels[:, 1:5, 2:5]).all()
    assert part.features is not None
    assert part.features.shape == (FEATURES, 4, 3)
    assert Decoded(whole.pixels, None).cut(0, 0, 1, 1).features is None


def test_bits_at_borders_count_by_band() -> None:
    shares = octave_choices._border_shares(4, 6)
    assert shares.shape == (4, 6, 9)
    assert (shares[1:3, 1:5] == 1).all()
    found = {where: tuple(shares[where][:3].tolist()) for where in ((1, 0), (0, 2), (2, 5), (3, 3), (0, 0), (3, 0))}
    across, along = np.float32(octave_choices.BORDER_SHARES).tolist()
    assert found == {  # horizontal, vertical, diagonal
        (1, 0): (across, along, across),
        (0, 2): (along, across, across),
        (2, 5): (across, along, across),
        (3, 3): (along, across, across),
        (0, 0): (across, across, across),
        (3, 0): (across, across, across),
    }
    assert (shares[..., 3:6] == shares[..., :3]).all()
    of_colour = octave_choices.of_pass(shares, 3)
    found = {share: int((of_colour == share).sum()) for share in (1, across, along)}
    assert found == {1: 24, across: 36, along: 12}  # 8 of 12 sites lie at a border
    patience = octave_choices.patience_of(4, 6, (0.5, 2.0))
    counts = patience.bits
    assert (counts[..., :3] == 0.5 * shares[..., :3]).all()
    assert (counts[..., 3:] == 2.0 * shares[..., 3:]).all()
    bits, errors = patience.passes[3]
    assert (bits == octave_choices.of_pass(counts, 3)).all()
    assert (errors == 1 / of_colour).all()


def test_keys_and_limits_of_the_spec_are_those_of_the_model() -> None:
    spec = (Path(__file__).parents[1] / "formats" / "SPEC.md").read_text(encoding="utf-8")
    config = spec.split("### B.2")[1].split("### B.3")[0]
    keys = re.findall(r"^\| `(\w+)` \| (?:integer|array|string) \|", config, re.M)
    assert sorted(keys) == sorted(f.name for f in dataclasses.fields(OctavesModel))
    assert "512 to 204800" in config
    assert re.search(r"beyond \+-2\^20", spec)
    assert MOST_SYMBOL == 2**20


@pytest.mark.parametrize("side", [150, 74, 38])
def test_padding_hardly_changes_the_octave_below(side: int) -> None:
    """Sides that are no multiple of 4 are coded against the octave that the decoder has; repeating rows changes it."""
    rgb = sample_region((700, 900), (side, side), size_wh=(2048, 2048), seed=1)
    pixels = np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32)
    below = forward97(torch.from_numpy(octave_chunks._pad(pixels, 2))[None])[0][0].numpy()

    def change(padded: np.ndarray) -> float:
        whole = forward97(torch.from_numpy(padded)[None])[0][0].numpy()[:, : below.shape[1], : below.shape[2]]
        return float(np.square(whole - below).sum())

    own = -side % 4
    assert change(octave_chunks._pad(pixels, 4)) < 0.5 * change(
        np.pad(pixels, ((0, 0), (0, own), (0, own)), mode="edge")
    )


@pytest.mark.parametrize("wh", [(261, 265), (290, 330), (129, 257)])
def test_the_last_rows_and_columns_are_as_good_as_the_rest(tmp_path: Path, wh: tuple[int, int]) -> None:
    """Of sides that are no multiple of 4 the decoder repeats the octave below's last row; errors were 2 to 4 times."""
    rgb = sample_region((700, 900), wh, size_wh=(2048, 2048), seed=1)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    args = ["encode", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.cinr"), "--effort", "fast", "--quality", "95"]
    assert CliRunner().invoke(main, [*args, "--source-mpp", "0.5", "--quiet"]).exit_code == 0
    with inrwsi.open_slide(tmp_path / "a.cinr") as slide:
        decoded = np.asarray(slide.read_region((0, 0), 0, wh))[..., :3]
    error = np.square(decoded.astype(float) - rgb)
    inside = error[:-16, :-16].mean()
    assert error[-16:].mean() < 1.4 * inside
    assert error[:, -16:].mean() < 1.4 * inside
    assert error.mean() < 2.0


@pytest.mark.parametrize(("refine", "least_step", "most_rms"), [((), 64, 0.04), (QUICK, 64, 0.04), ((), None, 0.1)])
def test_large_coefficients_of_fine_steps_come_back(
    refine: tuple[float, ...], least_step: int | None, most_rms: float
) -> None:
    """The decoder's units are whole 1 / 1024 grey level: of coefficients of 100 a hundredth was half a grey level."""
    model = dataclasses.replace(MODEL, step=2048, spacing=11, least_step=least_step)
    coder = ChunkCoder(model, None, CPU, encoder=True, prior=released(), refine=refine)
    target = np.random.default_rng(0).uniform(-100, 100, (3, 32, 32)).astype(np.float32)
    below = np.rint(coder.below(target) * 64).astype(np.int16)
    _, decoded = coder.encode(6, target, Decoded(below, np.zeros((FEATURES, 16, 16), np.uint8)))
    assert np.sqrt(np.square(decoded.pixels / 64 - target).mean((1, 2))).max() < most_rms
