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
from inrwsi import octave_choices
from inrwsi.benchmarks import quality
from inrwsi.cli.encode import encode as encode_command
from inrwsi.cli.main import main
from inrwsi.coding import rans
from inrwsi.fields import octaves_model, octaves_prior
from inrwsi.fields.octaves import active_steps
from inrwsi.fields.octaves_integer import IntegerNet, net_of, octave_step
from inrwsi.fields.octaves_model import ACTIVITY, HALF_ACTIVITY, STEP_UNIT, Decoded
from inrwsi.formats.container import Container
from inrwsi.options import TUNES
from tests import octaves_reference as reference
from tests.test_octave_chunks import CPU, MODEL, PRIORS, chosen, coder_of, digest, parent_of, plain, same, tissue
from tests.test_octaves_integer import WAYS, Kind, prior, said

TUNINGS = {  # what a file says, and how many times as much luma counts in the colour transform
    "balanced": ("half activity", [16, 15, 14], 1.15),
    "psnr": (None, None, 1.0),
    "ms-ssim": ("activity", [22, 15, 13], 2.5),
}
SIDE = 512


@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize(
    ("steps", "own_steps", "least_step"),
    [
        (ACTIVITY, None, None),
        (ACTIVITY, (22, 15, 13), None),
        (HALF_ACTIVITY, None, None),
        (HALF_ACTIVITY, None, 40),
        (None, (16, 4), 100),
    ],
)
@pytest.mark.parametrize(("octave", "wh"), [(0, (24, 20)), (1, (32, 32)), (3, (70, 2)), (7, (1, 1)), (0, (5, 3))])
def test_a_reader_written_from_the_spec_gives_the_same_bits(
    which: str,
    steps: str | None,
    own_steps: tuple[int, ...] | None,
    least_step: int | None,
    octave: int,
    wh: tuple[int, int],
) -> None:
    model = replace(MODEL, steps=steps, own_steps=own_steps, least_step=least_step)
    coder = coder_of(chosen(which), model, encoder=True)
    parent = parent_of("active", wh)
    payload, seen = coder.encode(octave, tissue(wh), parent)
    for fast in (False, True):
        assert same(coder_of(chosen(which), model, fast=fast).decode(octave, payload, parent, wh), seen)
    held = reference.read_prior(octaves_prior.pack(chosen(which)))
    found = reference.decode(
        held,
        MODEL.step,
        octave,
        payload,
        plain(parent),
        wh,
        steps=steps,
        own_steps=own_steps or (16,),
        least_step=least_step or 256,
    )
    assert (seen.pixels == found[0]).all()
    if octave:
        assert (seen.features == found[1]).all()


# One octave whose left is smooth and whose right is not, under the tests' prior of whole numbers.
GOLDEN_SHA256 = {  # by in how many indices a step doubles: of the payload, and of what it decodes to
    8: (
        "e5c360c89a24c530e42a9cb3530e09e34816c2659d2f0a347d02d80c781f8e8a",
        "337b7965eb95f5ce00ba0d902968eb0dd4f1b740d47eeec9771d57ab8fbd279d",
    ),
    16: (
        "96376599bce0f0b3da4449684d10361cd924e78116c1118bddf98d1ea77eb9bb",
        "76b2137f40fa252660ab571ce6b6c6e8c4ab07ecd7b63f47c59be8651b6a0081",
    ),
}


def half_smooth() -> Decoded:
    parent = parent_of("half smooth", (40, 24))
    pixels = parent.pixels.copy()
    pixels[:, :, :10] //= 256
    return Decoded(pixels, parent.features)


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("active", [8, 16])
def test_golden_steps(kind: Kind, active: int) -> None:
    net = kind(prior().nets[net_of(1)], octave_step(MODEL.step, 1), CPU, active=active)
    parent = half_smooth()
    assert parent.features is not None
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def coder(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        held.append((said("golden")(number, means, scales), scales))
        return held[-1][0]

    decoded = net.run(parent.pixels, parent.features, coder, hand_up=True)
    symbols, scales = (np.concatenate(parts) for parts in zip(*held, strict=True))
    payload = rans.encode(symbols, scales, prior().tables)
    assert (hashlib.sha256(payload).hexdigest(), digest(decoded)) == GOLDEN_SHA256[active]


@pytest.mark.parametrize(("active", "least", "most"), [(8, 10, 35), (16, 14, 26)])
def test_steps_in_training_are_those_of_files(active: int, least: float, most: float) -> None:
    pixels = half_smooth().pixels
    net = IntegerNet(prior().nets[0], 20 * STEP_UNIT, CPU, active=active)
    below = torch.from_numpy(pixels.astype(np.float32) / 64)[None]
    found = active_steps(torch.full((1, 1, 1, 1), 20.0), below, active)
    own = net.at_sites(pixels)[0] / STEP_UNIT
    inside = np.abs(found[0, 0].numpy()[2:-2, 2:-2] / own[2:-2, 2:-2] - 1)
    assert np.median(inside) < 1e-3
    assert inside.max() < 0.1  # a site at a floor, rounded the other way
    assert own.min() < least
    assert own.max() > most


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


def test_every_tuning_is_known_everywhere() -> None:
    (option,) = (p for p in encode_command.params if p.name == "tune")
    assert list(option.type.choices) == list(TUNES) == list(TUNINGS) == list(octaves_model.TUNINGS)  # type: ignore[attr-defined]
    assert {luma for _, _, luma in TUNINGS.values()} == {t.luma for t in octaves_model.TUNINGS.values()}
    assert {t.steps for t in octaves_model.TUNINGS.values()} == set(octave_choices.ACTIVE_COLOUR)


def test_what_a_file_is_tuned_for_gets_the_bits(tmp_path: Path) -> None:
    """From the command line to pixels: at about the bytes of `psnr`, and a file that says how it was made."""
    pixels = picture(tmp_path / "a.png")
    luma = np.array([0.299, 0.587, 0.114])
    found = {}
    for tune, quality_asked in (("psnr", "50"), ("balanced", "46"), ("ms-ssim", "44")):
        out = tmp_path / f"{tune}.cinr"
        args = ["encode", str(tmp_path / "a.png"), "-o", str(out), "--effort", "fast", "--quality", quality_asked]
        args += [] if tune == "balanced" else ["--tune", tune]
        result = CliRunner().invoke(main, [*args, "--source-mpp", "0.5", "--quiet"])
        assert result.exit_code == 0, result.output
        with inrwsi.open_slide(out) as slide:
            decoded = np.asarray(slide.read_region((0, 0), 0, (SIDE, SIDE)))[..., :3]
        steps, own_steps, luma_counts = TUNINGS[tune]
        with Container.open(out) as container:
            model = container.header.model
        assert (model.get("steps"), model.get("own_steps"), model.get("least_step")) == (steps, own_steps, 64)
        # Rows of the transform: luma's share of its length is told from that of a colour across it.
        across = np.cross(luma, (1, 0, 0))
        matrix = np.array(model["matrix"]).reshape(3, 3) / 2**14
        lengths = [np.linalg.norm(matrix @ v) / np.linalg.norm(v) for v in (luma, across)]
        assert lengths[0] / lengths[1] == pytest.approx(luma_counts, rel=0.002)
        error = (decoded.astype(float) - pixels) ** 2
        measured = quality.measure(pixels, decoded)
        found[tune] = (
            out.stat().st_size,
            measured["psnr_rgb"],
            measured["ms_ssim"],
            error[:, : SIDE // 2].mean() / error[:, SIDE // 2 :].mean(),
            measured["psnr_luma"] - measured["psnr_rgb"],
        )
    sizes, psnr, ms_ssim, smooth, luma_more = (
        dict(zip(found, v, strict=True)) for v in zip(*found.values(), strict=True)
    )
    assert sizes["balanced"] < sizes["psnr"]
    assert sizes["ms-ssim"] < 0.92 * sizes["psnr"]
    assert psnr["psnr"] > psnr["balanced"] > psnr["ms-ssim"]
    assert ms_ssim["balanced"] > ms_ssim["psnr"]
    assert ms_ssim["ms-ssim"] > ms_ssim["psnr"]
    assert smooth["ms-ssim"] < 0.6 * smooth["psnr"]
    assert smooth["ms-ssim"] < 0.9 * smooth["balanced"] < 0.8 * smooth["psnr"]
    assert luma_more["ms-ssim"] > max(luma_more["balanced"], luma_more["psnr"]) + 0.1
