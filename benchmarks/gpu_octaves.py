"""Steps of `benchmarks.gpu` for the default model: the same bits on the device, and the training of the prior."""

from __future__ import annotations

import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inrwsi.colour import Klt
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves import OctavesConfig
from inrwsi.fields.octaves_model import STEP_UNIT, TUNINGS, Decoded, OctavesModel
from inrwsi.fit.pictures import Picture
from inrwsi.fit.prior import Recipe, Training, pictures_of, resume, save, train
from inrwsi.octave_chunks import ChunkCoder

if TYPE_CHECKING:
    from .gpu import Context

CARRIED = Path("carried")  # an ignored folder of the checkout: slides/, and prior.safetensors to go on from
TRAINING_STEPS = 40_000
TRAINING_BATCH = 16
ROUND_STEPS = (8.0, 40.0)


def smooth_picture(side_px: int, seed: int) -> np.ndarray:
    """(side, side, 3) uint8 of coloured blobs with grain: something to code where no slide is."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, side_px // 16, side_px // 16)))
    smooth = torch.nn.functional.interpolate(coarse, size=(side_px, side_px), mode="bicubic")[0]
    grain = rng.normal(0, 6, (side_px, side_px, 1))
    return np.clip(np.rint(smooth.permute(1, 2, 0).numpy() + grain), 0, 255).astype(np.uint8)


def parity_octaves(ctx: Context) -> dict[str, Any]:
    """Pixels and features of a chunk, decoded on the device and on the CPU with both kinds of convolution."""
    rgb = smooth_picture(64 if ctx.quick else 256, 3)
    klt = Klt.of(rgb.reshape(-1, 3))
    digest = octaves_prior.current_sha256()
    result: dict[str, Any] = {}
    for step, tune in product(ROUND_STEPS, TUNINGS):
        model = OctavesModel.of(digest, round(step * STEP_UNIT), klt, tune=tune)
        encoder = ChunkCoder(model, None, torch.device("cpu"), encoder=True)
        target = encoder.components(rgb)
        below = np.rint(encoder.below(target) * 64).astype(np.int16)
        parent = Decoded(below, np.zeros((octaves_prior.FEATURES, *below.shape[1:]), np.uint8))
        payload, expected = encoder.encode(1, target, parent)
        for name, device, fast in (
            ("device", ctx.device, False),
            ("cpu_fp32", torch.device("cpu"), False),
            ("cpu_bf16", torch.device("cpu"), True),
        ):
            coder = ChunkCoder(model, None, device, fast=fast)
            got = coder.decode(1, payload, parent, (rgb.shape[1], rgb.shape[0]))
            same = np.array_equal(got.pixels, expected.pixels)
            if got.features is not None and expected.features is not None:
                same = same and np.array_equal(got.features, expected.features)
            result[f"{name}_step_{step:g}_{tune}"] = {"payload_bytes": len(payload), "ok": bool(same)}
    result["ok"] = all(entry["ok"] for entry in result.values())
    return result


def train_prior(ctx: Context) -> dict[str, Any]:
    """Train the prior on the slides that were carried here, leaving `prior.safetensors` beside gpu.json."""
    slides = CARRIED / "slides"
    if ctx.quick:
        rgb = smooth_picture(256, 5)
        pictures = [Picture("made", rgb, np.full((1, 2), 128, np.float32), rgb.reshape(-1, 3)[:512], 1.0)]
        recipe = Recipe(steps=2, batch=1, crop_px=64)
    elif slides.is_dir():
        extra = [path for path in (slides / "slide-20x.tiff",) if path.exists()]
        pictures = pictures_of(slides, extra)
        recipe = Recipe(steps=TRAINING_STEPS, batch=TRAINING_BATCH)
    else:
        return {"skipped": f"{slides} is not there: no slides were carried"}
    training = Training(OctavesConfig(), recipe, pictures, ctx.device)
    begun = CARRIED / "prior.safetensors"
    if begun.exists() and not ctx.quick:
        resume(training, begun)
    first, start = training.step_number, time.monotonic()
    lines = list(train(training, ctx.out / "prior.safetensors", ctx.deadline - start - 5))
    save(training, ctx.out / "prior.safetensors")
    seconds = time.monotonic() - start
    taken = training.step_number - first
    return {
        "first_step": first,
        "steps": taken,
        "mpx_s": taken * recipe.batch * recipe.crop_px**2 / 1e6 / seconds,
        "last": lines[-1] if lines else "",
    }
