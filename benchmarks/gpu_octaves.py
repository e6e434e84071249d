"""Steps of `benchmarks.gpu` for the default model: the same bits on the device, and the training of the prior."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inrwsi.colour import Klt
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves import OctavesConfig
from inrwsi.fields.octaves_model import STEP_UNIT, TUNINGS, Decoded, OctavesModel
from inrwsi.fit.pictures import Picture
from inrwsi.fit.prior import Recipe, Training, pictures_of, resume, save
from inrwsi.fit.rounded import floats_of
from inrwsi.octave_chunks import ChunkCoder

from .gpu_carry import CARRIED, SLIDES

if TYPE_CHECKING:
    from .gpu import Context

TRAINING_BATCH = 16
ROUND_STEPS = (8.0, 40.0)
TIMES = 5  # that something is timed
PARITY_OCTAVES, PARITY_WH = (0, 1, 2, 5), ((72, 40), (8, 4))  # a library chooses its algorithm by the shape


def smooth_picture(side_px: int, seed: int) -> np.ndarray:
    """(side, side, 3) uint8 of coloured blobs with grain: something to code where no slide is."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, side_px // 16, side_px // 16)))
    smooth = torch.nn.functional.interpolate(coarse, size=(side_px, side_px), mode="bicubic")[0]
    grain = rng.normal(0, 6, (side_px, side_px, 1))
    return np.clip(np.rint(smooth.permute(1, 2, 0).numpy() + grain), 0, 255).astype(np.uint8)


def parity_octaves(ctx: Context) -> dict[str, Any]:
    """Chunks, decoded on the device and on the CPU in every way it has, and encoded on either for the other."""
    digest, whole = octaves_prior.current_sha256(), (64, 64) if ctx.quick else (256, 256)
    klt = Klt.of(_picture(whole))
    models = {
        (step, tune): OctavesModel.of(digest, round(step * STEP_UNIT), klt, tune=tune)
        for step, tune in product(ROUND_STEPS, TUNINGS)
    }
    result: dict[str, Any] = {}
    for (step, tune), model in models.items():
        result[f"step_{step:g}_{tune}"] = _parity(ctx, model, 1, whole)
    for octave, wh in product(PARITY_OCTAVES, (whole, *PARITY_WH)):
        result[f"octave_{octave}_{wh[0]}x{wh[1]}"] = _parity(ctx, models[ROUND_STEPS[0], "balanced"], octave, wh)
    return result | {"ok": all(entry["ok"] for entry in result.values())}


def _picture(wh: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(smooth_picture(256, 3)[: wh[1], : wh[0]])


def _parity(ctx: Context, model: OctavesModel, octave: int, wh: tuple[int, int]) -> dict[str, Any]:
    """One chunk: what of it differs, and what a reading takes in ms, the median of a few."""
    cpu = torch.device("cpu")
    coders = {
        "device": ChunkCoder(model, None, ctx.device, encoder=True),
        "cpu": ChunkCoder(model, None, cpu, encoder=True),
        "cpu_fp32": ChunkCoder(model, None, cpu, fast=False),
        "cpu_bf16": ChunkCoder(model, None, cpu, fast=True),
    }
    target = coders["cpu"].components(_picture(wh))
    below = np.rint(coders["cpu"].below(target) * 64).astype(np.int16)
    parent = Decoded(below, np.zeros((octaves_prior.FEATURES, *below.shape[1:]), np.uint8))
    found: dict[str, Any] = {"ok": True}
    for maker in ("cpu", "device"):
        payload, expected = coders[maker].encode(octave, target, parent)
        found[f"payload_bytes_of_{maker}"] = len(payload)
        for name, coder in coders.items():
            try:
                got = coder.decode(octave, payload, parent, wh)
            except ValueError as error:  # symbols that are none: whoever read them saw other tables
                found |= {f"{name}_of_{maker}": str(error), "ok": False}
                continue
            pairs = ((got.pixels, expected.pixels), (got.features, expected.features))
            differing = sum(int((a != b).sum()) for a, b in pairs if a is not None and b is not None)
            if differing:
                found |= {f"{name}_of_{maker}": f"{differing} numbers differ", "ok": False}
    for name in ("device", "cpu") if found["ok"] else ():
        took = []
        for _ in range(1 if ctx.quick else TIMES):
            began = time.perf_counter()
            coders[name].decode(octave, payload, parent, wh)
            took.append(1000 * (time.perf_counter() - began))
        found[f"{name}_ms"] = round(statistics.median(took), 3)
    return found


def train_prior(ctx: Context) -> dict[str, Any]:
    """Train the prior on the pictures that were carried here, leaving `prior.safetensors` beside gpu.json.

    It begins with the shipped one, or with the carried checkpoint. The learning rate goes down with the time, so the
    length of the training is what a few steps say that there is time for.
    """
    if ctx.quick:
        rgb = smooth_picture(256, 5)
        pictures = [Picture("made", rgb, np.full((1, 2), 128, np.float32), rgb.reshape(-1, 3)[:512], 1.0)]
        recipe = Recipe(steps=2, batch=1, crop_px=64)
    elif SLIDES.is_dir():
        pictures, recipe = pictures_of(SLIDES, []), Recipe(batch=TRAINING_BATCH)
    else:
        return {"skipped": f"{SLIDES} is not there: python -m benchmarks.gpu_carry makes it"}
    shipped = octaves_prior.load(octaves_prior.current_sha256())
    if shipped is None:
        return {"error": "the package's prior is not here", "ok": False}
    tried = Training(OctavesConfig(), recipe, pictures, ctx.device)
    tried.step()  # the first finds its algorithms
    began, times = time.monotonic(), 1 if ctx.quick else TIMES
    for _ in range(times):
        tried.step()
    step_s = (time.monotonic() - began) / times
    training, begun = Training(OctavesConfig(), recipe, pictures, ctx.device), CARRIED / "prior.safetensors"
    if begun.exists() and not ctx.quick:
        resume(training, begun)
    else:
        training.model.load_state_dict(floats_of(shipped).state_dict())
    first, losses = training.step_number, list[float]()
    steps = recipe.steps if ctx.quick else max(1, int((ctx.deadline - time.monotonic() - 10) / step_s))
    training.recipe = replace(recipe, steps=first + steps)
    while len(losses) < steps and (ctx.quick or time.monotonic() < ctx.deadline - 5):
        losses.append(training.step()[0])
    save(training, ctx.out / "prior.safetensors")
    tenth = max(1, len(losses) // 10)
    return {
        "first_step": first,
        "steps": len(losses),
        "step_ms": round(1000 * step_s, 2),
        "mpx_s": recipe.batch * recipe.crop_px**2 / 1e6 / step_s,
        "loss_first_tenth": float(np.mean(losses[:tenth])) if losses else None,
        "loss_last_tenth": float(np.mean(losses[-tenth:])) if losses else None,
    }
