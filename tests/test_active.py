"""Steps that follow activity: both readers give the same bits, for ever, and smooth places get the bits."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import inrwsi
from inrwsi.benchmarks import quality
from inrwsi.cli.main import main
from inrwsi.coding import rans
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves import active_steps
from inrwsi.fields.octaves_fused import FusedNet
from inrwsi.fields.octaves_integer import IntegerNet, net_of, octave_step
from inrwsi.fields.octaves_model import ACTIVITY, STEP_UNIT, Decoded
from inrwsi.formats.container import Container
from tests import octaves_reference as reference
from tests.test_octave_chunks import CPU, MODEL, PRIORS, chosen, coder_of, digest, parent_of, plain, same, tissue
from tests.test_octaves_integer import prior, said

ACTIVE = replace(MODEL, steps=ACTIVITY)
SIDE = 512


@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize("own_steps", [None, (22, 15, 13)])
@pytest.mark.parametrize(("octave", "wh"), [(0, (24, 20)), (1, (32, 32)), (3, (70, 2)), (7, (1, 1)), (0, (5, 3))])
def test_a_reader_written_from_the_spec_gives_the_same_bits(
    which: str, own_steps: tuple[int, ...] | None, octave: int, wh: tuple[int, int]
) -> None:
    model = replace(ACTIVE, own_steps=own_steps)
    coder = coder_of(chosen(which), model, encoder=True)
    parent = parent_of("active", wh)
    payload, seen = coder.encode(octave, tissue(wh), parent)
    for fast in (False, True):
        assert same(coder_of(chosen(which), model, fast=fast).decode(octave, payload, parent, wh), seen)
    held = reference.read_prior(octaves_prior.pack(chosen(which)))
    found = reference.decode(
        held, MODEL.step, octave, payload, plain(parent), wh, active=True, own_steps=own_steps or (16,)
    )
    assert (seen.pixels == found[0]).all()
    if octave:
        assert (seen.features == found[1]).all()


# One octave whose left is smooth and whose right is not, under the tests' prior of whole numbers.
GOLDEN_PAYLOAD_SHA256 = "e5c360c89a24c530e42a9cb3530e09e34816c2659d2f0a347d02d80c781f8e8a"
GOLDEN_SHA256 = "337b7965eb95f5ce00ba0d902968eb0dd4f1b740d47eeec9771d57ab8fbd279d"


def half_smooth() -> Decoded:
    parent = parent_of("half smooth", (40, 24))
    pixels = parent.pixels.copy()
    pixels[:, :, :10] //= 256
    return Decoded(pixels, parent.features)


@pytest.mark.parametrize("kind", [IntegerNet, FusedNet])
@pytest.mark.parametrize("fast", [False, True])
def test_golden_steps(kind: type[IntegerNet], fast: bool) -> None:
    net = kind(prior().nets[net_of(1)], octave_step(ACTIVE.step, 1), CPU, fast=fast, active=True)
    parent = half_smooth()
    assert parent.features is not None
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def coder(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        held.append((said("golden")(number, means, scales), scales))
        return held[-1][0]

    decoded = net.run(parent.pixels, parent.features, coder, hand_up=True)
    symbols, scales = (np.concatenate(parts) for parts in zip(*held, strict=True))
    payload = rans.encode(symbols, scales, prior().tables)
    assert hashlib.sha256(payload).hexdigest() == GOLDEN_PAYLOAD_SHA256
    assert digest(decoded) == GOLDEN_SHA256


def test_steps_in_training_are_those_of_files() -> None:
    pixels = half_smooth().pixels
    net = IntegerNet(prior().nets[0], 20 * STEP_UNIT, CPU, fast=False, active=True)
    found = active_steps(torch.full((1, 1, 1, 1), 20.0), torch.from_numpy(pixels.astype(np.float32) / 64)[None])
    own = net.at_sites(pixels)[0] / STEP_UNIT
    inside = np.abs(found[0, 0].numpy()[2:-2, 2:-2] / own[2:-2, 2:-2] - 1)
    assert np.median(inside) < 1e-3
    assert inside.max() < 0.1  # a site at a floor, rounded the other way
    assert own.min() < 10
    assert own.max() > 35


def picture(path: Path) -> np.ndarray:
    """Left smooth, as glass and mucus are, right busy; noise everywhere, and stains that differ from place to place."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    smooth = 200 + 6 * np.sin(x / 23) * np.cos(y / 31)
    busy = 150 + 60 * np.sin(x / 2.1 + np.sin(y / 7)) * np.cos(y / 1.9)
    grey = np.where(x < SIDE // 2, smooth, busy) + rng.normal(0, 1.5, (SIDE, SIDE))
    stain = 10 * np.sin(x / 5 + y / 11) + rng.normal(0, 3, (SIDE, SIDE))
    colours = grey[..., None] + np.array([0, -12, 6]) + stain[..., None] * np.array([1, -0.4, 0])
    pixels = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_tuned_for_ms_ssim_smooth_places_and_luma_get_the_bits(tmp_path: Path) -> None:
    """From the command line to pixels: fewer bytes at a better MS-SSIM, and a file that says how it was made."""
    pixels = picture(tmp_path / "a.png")
    found = {}
    for tune, value in (("psnr", "50"), ("ms-ssim", "44")):
        out = tmp_path / f"{tune}.cinr"
        args = ["encode", str(tmp_path / "a.png"), "-o", str(out), "--effort", "fast", "--quality", value]
        result = CliRunner().invoke(main, [*args, "--tune", tune, "--source-mpp", "0.5", "--quiet"])
        assert result.exit_code == 0, result.output
        with inrwsi.open_slide(out) as slide:
            decoded = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)))[..., :3]
        with Container.open(out) as container:
            assert container.header.model.get("steps") == {"psnr": None, "ms-ssim": "activity"}[tune]
            assert container.header.model.get("own_steps") == {"psnr": None, "ms-ssim": [22, 15, 13]}[tune]
            assert ("inverse" in container.header.model) == (tune == "ms-ssim")
        error = (decoded.astype(float) - pixels) ** 2
        measured = quality.measure(pixels, decoded)
        found[tune] = (
            out.stat().st_size,
            measured["ms_ssim"],
            error[:, : SIDE // 2].mean() / error[:, SIDE // 2 :].mean(),
            measured["psnr_luma"] - measured["psnr_rgb"],
        )
    assert found["ms-ssim"][0] < 0.92 * found["psnr"][0]
    assert found["ms-ssim"][1] > found["psnr"][1]
    assert found["ms-ssim"][2] < 0.6 * found["psnr"][2]
    assert found["ms-ssim"][3] > found["psnr"][3] + 0.5
