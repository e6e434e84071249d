"""Training of the prior: crops that are the same for their number, stops that change nothing, and what is released."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrwsi.fields import octaves, octaves_prior
from inrwsi.fields.octaves import OctavesConfig
from inrwsi.fields.octaves_model import OctavesModel
from inrwsi.fit import pictures, release
from inrwsi.fit import prior as prior_training
from inrwsi.fit.pictures import Crops, Picture
from inrwsi.fit.prior import Recipe, Training, resume, save, train
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.sample import sample_region

CPU = torch.device("cpu")
CROP_PX = 64
RECIPE = Recipe(steps=4, batch=1, crop_px=CROP_PX)
PICTURE_WH = (190, 170)


@pytest.fixture(scope="module")
def two_pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    """Of generated tissue, one of them with glass in its right half."""
    found = []
    for n, x in enumerate((700, 1000)):
        pixels = sample_region((x, 900), PICTURE_WH, size_wh=(2048, 2048), seed=n + 1).copy()
        if n:
            pixels[:, 90:] = (243, 242, 244)
        path = tmp_path_factory.mktemp("pictures") / f"{n}.png"
        Image.fromarray(pixels).save(path)
        found.append(pictures.load(path, 1.0 + n, n))
    return found


@pytest.fixture(autouse=True)
def short_hard_phase(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of the four steps of RECIPE, the last two."""
    monkeypatch.setattr(prior_training, "HARD_FROM", 0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def training(held: list[Picture], recipe: Recipe = RECIPE) -> Training:
    return Training(OctavesConfig(), recipe, held, CPU)


def same(a: Training, b: Training) -> bool:
    """Weights, moments and step numbers, to the bit."""
    x, y = a.state(), b.state()
    return x.keys() == y.keys() and all(x[k].tobytes() == y[k].tobytes() for k in x)


# Stops


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_training_that_was_stopped_gives_the_same_bits(
    stop: int, two_pictures: list[Picture], tmp_path: Path
) -> None:
    whole, before = training(two_pictures), training(two_pictures)
    said = [whole.step() for _ in range(4)]
    assert np.isfinite(said).all()
    assert [before.step() for _ in range(stop)] == said[:stop]
    save(before, tmp_path / "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    again = training(two_pictures)
    resume(again, tmp_path / "checkpoint")
    assert again.step_number == stop
    assert same(again, before)
    assert [again.step() for _ in range(4 - stop)] == said[stop:]
    assert same(again, whole)


def test_training_saves_and_says_how_it_goes(two_pictures: list[Picture], tmp_path: Path) -> None:
    first = training(two_pictures, Recipe(steps=2, batch=1, crop_px=CROP_PX))
    assert list(train(first, tmp_path / "a", seconds=1e9, save_every=0.0)) == []  # a line every hundred steps
    assert first.step_number == 2
    again = training(two_pictures, first.recipe)
    resume(again, tmp_path / "a")
    assert same(first, again)
    assert list(train(again, tmp_path / "a", seconds=1e9)) == []
    assert again.step_number == 2
    first.step_number = 99
    first.recipe = Recipe(steps=100, batch=1, crop_px=CROP_PX)
    (line,) = train(first, tmp_path / "a", seconds=1e9)
    assert line.startswith("step 100 of 100: loss ")


def test_a_damaged_checkpoint_is_refused(two_pictures: list[Picture], tmp_path: Path) -> None:
    whole = training(two_pictures)
    whole.step()
    save(whole, tmp_path / "a")
    raw = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(raw[:-100])
    with pytest.raises(ValueError, match="not safetensors"):
        resume(training(two_pictures), tmp_path / "a")


# Steps


def test_the_analysis_has_no_gradient_in_the_hard_phase(two_pictures: list[Picture]) -> None:
    whole = training(two_pictures)
    held = []
    for hard in (False, False, True, True):
        whole.step()
        graded = [p.grad is not None for p in whole.model.analyses.parameters()]
        assert any(graded) != hard
        assert any(p.grad is not None for p in whole.model.nets.parameters())
        held.append({k: v.clone() for k, v in whole.model.analyses.state_dict().items()})
    assert any(not torch.equal(held[0][k], held[1][k]) for k in held[0])
    assert all(torch.equal(held[1][k], held[3][k]) for k in held[1])


def test_it_learns(two_pictures: list[Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_training, "HARD_FROM", 1.0)
    recipe = Recipe(steps=200, batch=1, crop_px=CROP_PX, learning_rate=4e-3, least_step=20, most_step=20.1)
    whole, one = training(two_pictures[:1], recipe), Crops(two_pictures[:1], CROP_PX, 0)(0)
    monkeypatch.setattr(whole, "_crops", lambda number: one)
    losses = [whole.step()[0] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


@pytest.mark.parametrize("hard", [False, True])
def test_crops_at_once_are_crops_one_by_one(
    hard: bool, two_pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU takes them: each with its own step, spread and loss. But for bfloat16's sums they give one gradient."""
    monkeypatch.setattr(octaves, "_noise", lambda x, generator: torch.zeros_like(x))
    monkeypatch.setattr(prior_training, "HARD_FROM", 0.0 if hard else 1.0)
    found, said = [], []
    for at_once in (1, None):
        whole = training(two_pictures, Recipe(steps=4, batch=3, crop_px=CROP_PX))
        for net in whole.model.nets:  # else means are 0, and spreads are seen in the bits alone
            torch.nn.init.normal_(net.pixels.weight, std=0.05, generator=torch.Generator().manual_seed(1))
        whole._gradients.at_once = at_once
        said.append(whole.step())
        found.append(torch.cat([p.grad.flatten() for p in whole.model.parameters() if p.grad is not None]))
    assert np.allclose(*said, rtol=2e-3)
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.02


# Crops


def test_a_crop_is_the_same_for_its_number(two_pictures: list[Picture]) -> None:
    one, other = Crops(two_pictures, CROP_PX, 5), Crops(two_pictures, CROP_PX, 5)
    wanted = [one(n) for n in range(30)]
    assert all(np.array_equal(other(n), wanted[n]) for n in reversed(range(30)))
    assert len({crop.tobytes() for crop in wanted}) == 30
    assert not np.array_equal(Crops(two_pictures, CROP_PX, 6)(0), wanted[0])
    for crop in wanted:
        assert crop.dtype == np.float32
        assert crop.shape == (3, CROP_PX, CROP_PX)
        assert crop.flags.c_contiguous
        assert 5 < np.abs(crop).max() < 450


def correlated() -> Picture:
    """Smooth waves whose red, green and blue rise and fall together, much alike everywhere."""
    y, x = np.mgrid[:260, :260]
    waves = [np.sin(x / 5 + n) * np.cos(y / (4 + n)) for n in range(3)]
    mixed = np.stack([150 + 40 * waves[0] + 12 * waves[1], 110 + 50 * waves[0] - 9 * waves[1] + 4 * waves[2]], -1)
    rgb = np.concatenate((mixed, 160 + 25 * waves[0][..., None] + 10 * waves[2][..., None]), -1)
    pixels = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    places = np.array([[px, py] for px in (64, 128, 192) for py in (64, 128, 192)], np.float32)
    return Picture("waves", pixels, places, pixels.reshape(-1, 3)[::7].copy(), 1.0)


def test_components_of_crops_are_hardly_correlated() -> None:
    crops, plain = Crops([correlated()], CROP_PX, 2), correlated().pixels.reshape(-1, 3)
    assert np.corrcoef(plain.T)[0, 1] > 0.8
    found = []
    for n in range(40):
        parts = crops(n).reshape(3, -1)
        covariance = np.cov(parts)
        off = np.abs(covariance - np.diag(np.diag(covariance))).max()
        found.append(off / covariance[0, 0])
        assert covariance[0, 0] > covariance[1, 1] > covariance[2, 2]
    assert np.median(found) < 0.1
    assert max(found) < 0.25  # what JPEG and clipping do to colours, the transform does not know of


def test_crops_are_drawn_about_tissue_and_by_weight(two_pictures: list[Picture]) -> None:
    held = two_pictures[1]
    assert held.tissue_xy[:, 0].max() < 130  # glass begins at 90, and the map has a rim of a cell
    assert held.colours.shape == (pictures.COLOUR_SAMPLES, 3)
    glass = [(colours.reshape(-1, 3) == (243, 242, 244)).all(1).mean() for colours in (held.colours, held.pixels)]
    assert glass[0] < 0.7 * glass[1]
    assert Crops(two_pictures, CROP_PX, 0)._shares.tolist() == [1 / 3, 2 / 3]


# What is released


def test_a_trained_model_is_released_as_a_prior_that_codes(
    two_pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "CALIBRATION_CROPS", 2)
    monkeypatch.setattr(release, "COUNTED_CROPS", 2)
    whole = training(two_pictures)
    for _ in range(4):
        whole.step()
    raw = octaves_prior.pack(release.release(whole.model.eval(), Crops(two_pictures, CROP_PX, 11)))
    assert len(raw) < 2e6
    prior = octaves_prior.unpack(raw)
    pixels = two_pictures[0].pixels[:50, :70]
    model = OctavesModel(prior.sha256, 8 * 1024, release.UNIT_MATRIX, (9000, 7000, 9000))
    coder = ChunkCoder(model, None, CPU, encoder=True, prior=prior)
    truth = [coder.components(pixels)]
    for _ in range(3):
        truth.append(coder.below(truth[-1]))
    payload, decoded = coder.encode_root(truth[3])
    again = ChunkCoder(model, None, CPU, prior=prior)
    found = again.decode_root(payload, (9, 7))
    for octave in (2, 1, 0):
        payload, decoded = coder.encode(octave, truth[octave], decoded)
        found = again.decode(octave, payload, found, (truth[octave].shape[2], truth[octave].shape[1]))
        assert np.array_equal(found.pixels, decoded.pixels)
    back = again.rgb(found)
    assert np.sqrt(np.mean((back.astype(float) - pixels) ** 2)) < 8  # hardly more than the wavelet alone


def test_training_in_integers_goes_on_where_it_stopped_and_is_released_in_them(
    two_pictures: list[Picture], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(release, "CALIBRATION_CROPS", 2)
    monkeypatch.setattr(release, "COUNTED_CROPS", 1)
    crops = Crops(two_pictures, CROP_PX, 11)
    first = octaves_prior.unpack(octaves_prior.pack(release.release(training(two_pictures).model.eval(), crops)))

    def begun() -> Training:
        # So fast that integers change while the rate of learning still rises.
        found = training(two_pictures, Recipe(steps=4, batch=1, crop_px=CROP_PX, learning_rate=0.2))
        found.round(first)
        return found

    whole, before = begun(), begun()
    analyses = {k: v.clone() for k, v in whole.model.analyses.state_dict().items()}
    said = [whole.step() for _ in range(3)]
    assert before.step() == said[0]
    save(before, tmp_path / "checkpoint")
    again = begun()
    resume(again, tmp_path / "checkpoint")
    assert [again.step() for _ in range(2)] == said[1:]
    assert same(again, whole)
    assert all(torch.equal(v, analyses[k]) for k, v in whole.model.analyses.state_dict().items())
    found = octaves_prior.unpack(octaves_prior.pack(release.release(whole.model.eval(), crops, like=first)))
    for n, net in enumerate(found.nets):
        assert all(np.array_equal(v, first.nets[n][k]) for k, v in net.items() if k.endswith((".shift", "_factor")))
        assert not np.array_equal(net["trunk2.weight"], first.nets[n]["trunk2.weight"])
    assert all(np.array_equal(v, first.units[k]) for k, v in found.units.items())
