"""Symbols as chosen and as refined: fewer bytes at equal error, by the plain format, on any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from inrwsi import octave_chunks
from inrwsi.coding import lifting
from inrwsi.colour import Klt
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_model import FEATURES, STEP_UNIT, Decoded, OctavesModel, coarsest_octave
from inrwsi.fit.refine import QUICK, THOROUGH, _choose
from inrwsi.octave_chunks import ChunkCoder, patience_at
from inrwsi.sample import sample_region
from tests.test_octave_chunks import CURRENT, same

CPU = torch.device("cpu")
SIDE_PX = 128
needs_prior = pytest.mark.skipif(not CURRENT.is_file(), reason="no prior is released")


def slide() -> tuple[np.ndarray, OctavesModel]:
    rgb = sample_region((900, 900), (SIDE_PX, SIDE_PX), size_wh=(2048, 2048), seed=1)
    klt = Klt.of(rgb)
    return rgb, OctavesModel.of(octaves_prior.current_sha256(), 20 * STEP_UNIT, klt)


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
    plain = [code(ChunkCoder(replace(model, step=n * STEP_UNIT), None, CPU, encoder=True), rgb) for n in steps]
    (bytes_0, error_0), (bytes_1, error_1) = (np.log([sum(map(len, c[0])), c[2]]) for c in plain)
    return float(np.exp(bytes_1 + (bytes_0 - bytes_1) * (np.log(error) - error_1) / (error_0 - error_1)))


@needs_prior
def test_bits_count_less_at_fine_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patience_at(6.0) == pytest.approx((0.77, 0.85))
    assert patience_at(48.0, 0.8) == pytest.approx((0.8 * (0.77 + 3 * 0.085), 0.8 * (0.85 + 3 * 0.33)))
    assert patience_at(0.5) == (0.5, 0.5)
    rgb, model = slide()
    by_step = code(ChunkCoder(replace(model, step=4 * STEP_UNIT), None, CPU, encoder=True), rgb)
    monkeypatch.setattr(octave_chunks, "patience_at", lambda step, share: (1.0, 1.75))  # as it was at every step
    assert sum(map(len, by_step[0])) < 0.996 * plain_bytes_at(by_step[2], rgb, model, (3, 4))


@needs_prior
def test_refined_chunks_cost_less_and_decode_as_any() -> None:
    rgb, model = slide()
    quick, refined = (code(ChunkCoder(model, None, CPU, encoder=True, refine=r), rgb) for r in (QUICK, THOROUGH))
    assert sum(map(len, quick[0])) < 0.988 * plain_bytes_at(quick[2], rgb, model, (18, 20))
    assert sum(map(len, refined[0])) < 0.987 * plain_bytes_at(refined[2], rgb, model, (18, 20))

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


def test_the_next_integer_is_taken_where_it_pays() -> None:
    scale, ones = torch.full((4,), 0.3), torch.ones(4)
    # At this scale 0 costs 0.55 bits and 1 costs 2.72: half of BIT times that is 0.146, by which 1 begins after 0.5.
    assert _choose(torch.tensor([0.64, -0.64, 0.65, -0.65]), scale, ones).tolist() == [0, 0, 1, -1]
    assert _choose(torch.tensor([1.80, -1.80, 1.82, -1.82]), scale, ones).tolist() == [1, -1, 2, -2]
    assert _choose(torch.tensor([0.51, -0.51, 1.51, -1.49]), scale, 0 * ones).tolist() == [1, -1, 2, -1]
