"""Symbols as chosen and as refined: fewer bytes at equal error, by the plain format, on any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from inrwsi import octave_choices, octave_chunks
from inrwsi.coding import lifting
from inrwsi.colour import Klt
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import PASSES
from inrwsi.fields.octaves_model import (
    ACTIVITY,
    FEATURES,
    HALF_ACTIVITY,
    STEP_UNIT,
    Decoded,
    OctavesModel,
    coarsest_octave,
)
from inrwsi.fit.refine import QUICK, THOROUGH
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.sample import sample_region
from tests.test_octave_chunks import CURRENT, same

CPU = torch.device("cpu")
SIDE_PX = 128
needs_prior = pytest.mark.skipif(not CURRENT.is_file(), reason="no prior is released")


def slide() -> tuple[np.ndarray, OctavesModel]:
    rgb = sample_region((900, 900), (SIDE_PX, SIDE_PX), size_wh=(2048, 2048), seed=1)
    klt = Klt.of(rgb)
    return rgb, OctavesModel.of(octaves_prior.current_sha256(), 20 * STEP_UNIT, klt, tune="psnr")


def code(coder: ChunkCoder, rgb: np.ndarray) -> tuple[list[bytes], list[Decoded], float]:
    """Payloads and chunks from the coarsest octave on, a chunk each; and the squared error of RGB."""
    truth = [coder.components(rgb)]
    for _ in range(coarsest_octave(rgb.shape[1::-1])):
        truth.append(coder.below(truth[-1]))
    coded = [coder.encode_root(truth[-1])]
    for octave in reversed(range(len(truth) - 1)):
        coded.append(coder.encode(octave, truth[octave], coded[-1][1]))
    error = coder.rgb(coded[-1][1]).astype(np.float64) - rgb
    return [payload for payload, _ in coded], [whole for _, whole in coded], float((error**2).sum())


def plain_bytes_at(error: float, rgb: np.ndarray, model: OctavesModel, steps: tuple[int, int]) -> float:
    """What plain coding takes for an error: on the line through two steps, in logarithms."""
    plain = [code(ChunkCoder(model.at(n * STEP_UNIT), None, CPU, encoder=True), rgb) for n in steps]
    (bytes_0, error_0), (bytes_1, error_1) = (np.log([sum(map(len, c[0])), c[2]]) for c in plain)
    return float(np.exp(bytes_1 + (bytes_0 - bytes_1) * (np.log(error) - error_1) / (error_0 - error_1)))


@needs_prior
def test_bits_count_less_at_fine_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, model = slide()
    fine, middle, coarse = (replace(model, step=int(n * STEP_UNIT), spacing=None) for n in (0.5, 6, 48))
    assert octave_choices.patience_at(middle) == pytest.approx((0.45, 0.5))
    assert octave_choices.patience_at(coarse, 0.8) == pytest.approx((0.8 * (0.45 + 3 * 0.04), 0.8 * (0.5 + 3 * 0.2)))
    assert octave_choices.patience_at(fine) == pytest.approx((0.45 + 0.04 * np.log2(1 / 12), 0.3))
    for steps, colour in ((HALF_ACTIVITY, 0.5), (ACTIVITY, 1.25)):  # for less
        assert octave_choices.patience_at(replace(middle, steps=steps)) == pytest.approx((0.45, colour))
    by_step = code(ChunkCoder(model.at(4 * STEP_UNIT), None, CPU, encoder=True), rgb)
    monkeypatch.setattr(octave_chunks, "patience_at", lambda model, share: (1.0, 1.75))  # as it was at every step
    assert sum(map(len, by_step[0])) < 0.996 * plain_bytes_at(by_step[2], rgb, model, (3, 4))


@needs_prior
def test_refined_chunks_cost_less_and_decode_as_any() -> None:
    rgb, model = slide()
    quick, refined = (code(ChunkCoder(model, None, CPU, encoder=True, refine=r), rgb) for r in (QUICK, THOROUGH))
    assert sum(map(len, quick[0])) < 0.995 * plain_bytes_at(quick[2], rgb, model, (18, 20))
    assert sum(map(len, refined[0])) < 0.994 * plain_bytes_at(refined[2], rgb, model, (18, 20))

    reader = ChunkCoder(model, None, CPU)
    found = reader.decode_root(refined[0][0], refined[1][0].pixels.shape[:0:-1])
    for number, (payload, whole) in enumerate(zip(refined[0][1:], refined[1][1:], strict=True)):
        octave = len(refined[0]) - 2 - number
        found = reader.decode(octave, payload, found, (whole.pixels.shape[2], whole.pixels.shape[1]))
        assert same(found, whole)


@needs_prior
@pytest.mark.parametrize("wh", [(1, 1), (3, 64), (33, 18)])
def test_sides_of_any_length(wh: tuple[int, int]) -> None:
    rgb, model = slide()
    coder = ChunkCoder(model, None, CPU, encoder=True, refine=THOROUGH)
    part = coder.components(np.ascontiguousarray(rgb[: wh[1], : wh[0]]))
    w, h = -(-wh[0] // 2), -(-wh[1] // 2)
    below = np.rint(coder.below(part)[:, :h, :w] * lifting.PIXEL_UNIT).astype(np.int16)
    parent = Decoded(below, np.zeros((FEATURES, h, w), np.uint8))
    payload, whole = coder.encode(0, part, parent)
    assert same(ChunkCoder(model, None, CPU).decode(0, payload, parent, wh), whole)
    assert float(np.abs(whole.pixels / lifting.PIXEL_UNIT - part).mean()) < 10


@needs_prior
def test_threads_refine_alike() -> None:
    rgb, model = slide()
    coder = ChunkCoder(model, None, CPU, encoder=True, refine=THOROUGH)
    crops = [np.ascontiguousarray(rgb[y : y + 64, x : x + 64]) for y in (0, 64) for x in (0, 64)]
    alone = [code(coder, crop)[0] for crop in crops]
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        assert list(pool.map(lambda crop: code(coder, crop)[0], crops)) == alone


@needs_prior
@pytest.mark.parametrize("spacing", [None, 17])
def test_rounds_code_as_the_chunk_will_be_coded(spacing: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round's symbols are those that the coder takes for the same coefficients, pass by pass."""
    rgb, model = slide()
    model, heard = replace(model, spacing=spacing), []
    plain = octave_choices.Choices.__call__

    def hearing(self: octave_choices.Choices, number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        found = plain(self, number, means, scales)
        heard.append((means.copy(), scales.copy(), found))
        return found

    monkeypatch.setattr(octave_choices.Choices, "__call__", hearing)
    code(ChunkCoder(model, None, CPU, encoder=True, refine=(0.0,)), rgb[:64, :64])
    assert len(heard) == 2 * len(PASSES) * coarsest_octave((64, 64))
    for begin in range(0, len(heard), 2 * len(PASSES)):
        for n in range(begin, begin + len(PASSES)):
            for once, again in zip(heard[n], heard[n + len(PASSES)], strict=True):
                assert (once == again).all()
