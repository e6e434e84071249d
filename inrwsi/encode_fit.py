"""The networks of one file: the prior's, or fitted to the slide where that pays for its bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np

from inrwsi.encode_common import Task
from inrwsi.encode_units import Glass, Ij, Plan, as_rgb
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_model import STEP_UNIT, OctavesModel
from inrwsi.fields.octaves_prior import Prior
from inrwsi.fit.deltas import apply_deltas, pack_deltas, pack_whole
from inrwsi.fit.refine import QUICK, THOROUGH
from inrwsi.fit.slide import BATCH, CROP_PX, SlideFit
from inrwsi.formats import layout
from inrwsi.geometry import Rect
from inrwsi.job import Job
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.progress import Progress

PASSES = {"default": 2.0, "best": 16.0}  # over the pixels of tissue, by effort
LEAST_PX = 2_000_000  # of tissue: the differences of fewer cost more than they can save
LEAST_STEPS, MOST_STEPS = 200, 20_000
MOST_WINDOWS, WINDOW_PX = 256, 512
QUANTA = (2, 4, 8)  # coarseness of the differences: the cheapest file wins
CHECKPOINT_SECONDS = 30.0
COARSER = 1.15  # a step beside the one that is wanted, for what errors are worth
WHOLE_SHARE = 0.01  # of a file: for less than this it holds all its networks, and needs no prior


Weights: TypeAlias = bytes | None  # a file's own section, differences from the prior; None: it has none


@dataclass(frozen=True)
class InFile:
    """What a file says of its networks.

    Attributes:
        prior: the SHA-256 that it names; empty where it needs none.
        weights: its section; None where it has none.
        stored_bytes: of the section.
    """

    prior: str
    weights: bytes | None
    stored_bytes: int


def in_file(prior_sha256: str, weights: bytes | None, chunk_bytes: float, *, always_whole: bool) -> InFile:
    """What a file is to say of its networks: all of them where they cost next to nothing, or where it must.

    Args:
        prior_sha256: what its chunks are coded with.
        weights: the differences from it, or None.
        chunk_bytes: of all payloads.
    """
    whole = _whole(prior_sha256, weights)
    if whole is not None and (always_whole or whole.stored_bytes < WHOLE_SHARE * (whole.stored_bytes + chunk_bytes)):
        return whole
    return InFile(prior_sha256, weights, len(weights or b""))


@lru_cache(maxsize=2)
def _whole(prior_sha256: str, weights: bytes | None) -> InFile | None:
    """Of a file that needs no prior. None where this build does not have the one to start from."""
    prior = octaves_prior.load(prior_sha256)
    if prior is None:
        return None
    raw = pack_whole(prior, weights)
    return InFile("", raw, len(layout.compress("WGHT", raw)[1]))


class Encoding(Protocol):
    """What a fit needs of the encoding under way."""

    task: Task
    plan: Plan
    glass: Glass
    job: Job

    def trial(self, model: OctavesModel, weights: Weights) -> tuple[float, float]:
        """Bytes of all chunks of the slide, and its squared error, as a sample has it, not refined."""
        ...


def fit_networks(encoding: Encoding, model: OctavesModel, effort: str, *, whole: bool = False) -> Weights:
    """Fit the networks to the slide at the model's step, for a time that grows with its tissue.

    Goes on from what the job holds. The prior's networks are kept where the fitted ones do not pay for themselves on
    a sample: bytes, and squared errors for what they are worth. With `whole` the file is to hold all networks,
    whichever they are, and the fitted ones cost nothing beside.

    Returns:
        The file's own section, differences from the prior; None where it is to have none.
    """
    chunks = encoding.glass.content()
    tissue_px = encoding.glass.content_px(chunks)
    smallest = min(encoding.task.l0_wh)
    prior = octaves_prior.load(model.prior)
    if effort not in PASSES or tissue_px < LEAST_PX or smallest < CROP_PX or prior is None:
        return None
    held = encoding.job.load_network()
    if held is not None and held[1].get("done"):
        return held[0]["weights"].tobytes() if "weights" in held[0] else None
    steps = int(np.clip(PASSES[effort] * tissue_px / (BATCH * CROP_PX**2), LEAST_STEPS, MOST_STEPS))
    fit = SlideFit(
        prior,
        _windows(encoding, chunks),
        model,
        steps=steps,
        tissue_px=tissue_px,
        seed=encoding.task.options.seed,
        device=encoding.task.device,
    )
    if held is not None:
        fit.restore(held[0], held[1]["step_number"])
    _run(fit, encoding)
    chosen = _cheapest(encoding, model, prior, fit, whole=whole)
    encoding.job.save_network({} if chosen is None else {"weights": np.frombuffer(chosen, np.uint8)}, {"done": True})
    return chosen


def _run(fit: SlideFit, encoding: Encoding) -> None:
    """Take the fit's steps, saving where it stands now and then."""
    saved = time.monotonic()
    total = fit.steps * BATCH * CROP_PX**2 / 1e6
    for seen_px, loss in fit.run():
        encoding.task.report(Progress("fit", min(total, seen_px / 1e6), total, "Mpx", f"{loss:.3f}"))
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            encoding.job.save_network(fit.state(), {"done": False, "step_number": fit.step_number})
            saved = time.monotonic()


def _windows(encoding: Encoding, chunks: list[Ij]) -> list[np.ndarray]:
    """Pieces (h, w, 3) uint8 of the slide about chunks of more than glass, within a quarter of the memory setting."""
    task = encoding.task
    rng = np.random.default_rng((task.options.seed, 5))
    most = min(MOST_WINDOWS, task.options.memory_mb * 2**20 // 4 // (3 * WINDOW_PX**2))
    whole = Rect(0, 0, *task.l0_wh)
    windows = []
    for n in rng.permutation(len(chunks))[:most].tolist():
        rect = encoding.plan.l0_rect(0, chunks[n])
        w, h = min(WINDOW_PX, whole.w), min(WINDOW_PX, whole.h)
        x = min(max(0, rect.x + (rect.w - w) // 2), whole.w - w)
        y = min(max(0, rect.y + (rect.h - h) // 2), whole.h - h)
        windows.append(as_rgb(task.source.read((x, y), (w, h))))
    return windows


def _cheapest(encoding: Encoding, model: OctavesModel, prior: Prior, fit: SlideFit, *, whole: bool = False) -> Weights:
    """Of the prior's networks and the fitted ones at every coarseness, those that make the cheapest file."""
    plain = encoding.trial(model, None)
    worth_bytes = _worth_bytes(encoding, model, plain)

    def cost_bytes(weights: Weights) -> float:
        chunk_bytes, squares = plain if weights is None else encoding.trial(model, weights)
        return chunk_bytes + (0 if whole else len(weights or b"")) + worth_bytes * squares

    return min((None, *_fitted(prior, fit)), key=cost_bytes)


def _worth_bytes(encoding: Encoding, model: OctavesModel, plain: tuple[float, float]) -> float:
    """What a squared error is worth: how many bytes a slightly coarser step saves for each that it adds.

    `plain` is the trial of the prior's networks at the model's own step.

    Then the cheapest file is the smallest at equal PSNR. In the coin of the training errors would count two thirds of
    that, as the trellis trades them for fewer bits than the training does.
    """
    coarser = model.at(round(COARSER * model.equal_step * STEP_UNIT))
    coarse_bytes, coarse_squares = encoding.trial(coarser, None)
    saved_bytes, more_squares = plain[0] - coarse_bytes, coarse_squares - plain[1]
    return saved_bytes / more_squares if min(saved_bytes, more_squares) > 0 else 0.0


def _fitted(prior: Prior, fit: SlideFit) -> Iterator[bytes]:
    """The fitted networks at every coarseness, but for those whose sums could leave 24 bits."""
    try:
        fitted = fit.fitted()
    except ValueError:
        return
    for quantum in QUANTA:
        weights = pack_deltas(prior, fitted, quantum, fit.which)
        try:
            apply_deltas(prior, weights)
        except ValueError:
            continue
        yield weights


def coder_of(task: Task, model: OctavesModel, weights: Weights, *, refined: bool = True) -> ChunkCoder:
    """A coder that encodes with these, as the effort says; not `refined`: as `fast` does."""
    effort = task.options.octaves.effort if refined else "fast"
    refine = {"fast": (), "default": QUICK, "best": THOROUGH}[effort]
    return ChunkCoder(model, weights, task.device, encoder=True, refine=refine)
