"""A step of `benchmarks.gpu`: CINR at the paper's own size on a GPU, and how long it takes to the paper's qualities."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from inrwsi.fields.presets import PAPER_ENCODING
from inrwsi.fit.patches import PATCH_PX, Patch, cosine

from .gpu_carry import CROP, PLACE
from .gpu_octaves import smooth_picture
from .paper_fit import PAPER_BATCH, SCHEDULES, PaperFit, epoch_batches, scaled_batch, scaled_grid

if TYPE_CHECKING:
    from .gpu import Context

REFERENCE_S = {34.5: 2.4 * 3600, 37.4: 18.3 * 3600}  # of the reference implementation, on an A5000
SCHEDULE = "tuned"
QUICK_SIDE_PX, QUICK_STEPS = 128, 4
LOOKS = 40  # at the PSNR, in the time of the fit
SAMPLE = 16  # patches a side that it is taken over
PARTS = 1000  # of the time, in which the learning rate goes down


def paper(ctx: Context) -> dict[str, Any]:
    """Fit CINR to a 10,000 x 10,000 crop until the time is up; seconds are of the fit alone.

    PSNR in `points` is over 256 patches on a grid over the crop, `psnr_db` over all of it.
    """
    if ctx.quick:
        pixels, about = smooth_picture(QUICK_SIDE_PX, 7), {"slide": "made", "l0_xy": [0, 0]}
    elif CROP.exists():
        pixels, about = np.asarray(Image.open(CROP)), json.loads(PLACE.read_text(encoding="utf-8"))
    else:
        return {"skipped": f"{CROP} is not there: python -m benchmarks.gpu_carry makes it"}
    side_px = len(pixels)
    grid, batch = (scaled_grid(side_px), scaled_batch(side_px)) if ctx.quick else (PAPER_ENCODING, PAPER_BATCH)
    fit = PaperFit("cinr", pixels, grid, SCHEDULES[SCHEDULE], seed=0, device=ctx.device)
    return {
        **about,
        "side_px": side_px,
        "parameters": fit.table_parameters + fit.network_parameters,
        "batch": batch,
        "schedule": SCHEDULE,
        **_run(ctx, fit, batch),
        "reference_s": {f"{db:g}": seconds for db, seconds in REFERENCE_S.items()},
    }


def _run(ctx: Context, fit: PaperFit, batch: int) -> dict[str, Any]:
    sample, all_of_it = spread_patches(fit.width, SAMPLE), spread_patches(fit.width, -(-fit.width // PATCH_PX))
    fit.psnr_db(sample, batch)  # a GPU's first look finds its algorithms, and says nothing of the others' time
    began = time.monotonic()
    fit.psnr_db(sample, batch)
    look_s = time.monotonic() - began
    # The looks on the way, and the last one over everything, have their time too.
    left_s = ctx.deadline - time.monotonic() - look_s * (LOOKS + 1.5 * len(all_of_it) / len(sample))
    whole_s, every_s = max(1e-3, left_s), max(0.0, left_s) / LOOKS
    points: list[dict[str, float]] = []
    spent_s, steps, epoch, queue = 0.0, 0, 0, list[list[Patch]]()
    while steps < QUICK_STEPS if ctx.quick else spent_s < whole_s or not steps:
        if not queue:
            queue = epoch_batches((fit.width, fit.height), batch, 0, epoch)
            epoch += 1
        began = time.monotonic()
        # A number of steps cannot be known before: the rate goes down with the time. The step's loss waits for the GPU.
        fit.step(queue.pop(), cosine(min(PARTS, int(PARTS * spent_s / whole_s)), PARTS))
        spent_s += time.monotonic() - began
        steps += 1
        if ctx.quick or spent_s >= every_s * (len(points) + 1):
            points.append({"fit_s": round(spent_s, 2), "steps": steps, "psnr_db": fit.psnr_db(sample, batch)})
    return {
        "fit_s": round(spent_s, 2),
        "steps": steps,
        "epochs": epoch,
        "psnr_db": fit.psnr_db(all_of_it, batch),
        "points": points,
        "seconds_to": {f"{db:g}": seconds_to(points, db) for db in REFERENCE_S},
        "peak_gb": torch.cuda.max_memory_allocated(ctx.device) / 1e9 if ctx.device.type == "cuda" else None,
    }


def spread_patches(side_px: int, count: int) -> list[Patch]:
    """`count` x `count` patches, the first and the last of a row at the crop's edges; all of it, where they touch."""
    px = min(PATCH_PX, side_px)
    at = np.unique(np.linspace(0, side_px - px, count).astype(int)).tolist()
    return [Patch(0, x, y, px, px) for y in at for x in at]


def seconds_to(points: list[dict[str, float]], psnr_db: float) -> float | None:
    """Seconds of the first look that finds so much; None where none does."""
    return next((point["fit_s"] for point in points if point["psnr_db"] >= psnr_db), None)
