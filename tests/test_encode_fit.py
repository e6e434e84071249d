"""Encoding with networks fitted to the slide: what is stored is what was fitted, where it pays, whatever the stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inrwsi import encode_fit, encode_octaves
from inrwsi.decode import Decoder
from inrwsi.encode_fit import Weights
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_model import OctavesModel
from inrwsi.fit import slide
from inrwsi.fit.deltas import Net, apply_deltas, pack_deltas
from inrwsi.fit.slide import SlideFit
from inrwsi.formats.container import Container
from inrwsi.options import EncodeReport
from inrwsi.sample import sample_region
from tests.test_encode_octaves import _Stop, digest, make, psnr, stopping
from tests.test_fit_slide import prior

WH = (330, 290)
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The prior of `test_fit_slide`, and fits of a few small steps, of slides with few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(octaves_prior, "current_sha256", lambda: prior().sha256)
        patch.setattr(octaves_prior, "load", lambda digest: prior() if digest == prior().sha256 else None)
        for module in (encode_fit, slide):
            patch.setattr(module, "CROP_PX", 64)
            patch.setattr(module, "BATCH", 1)
        patch.setattr(encode_fit, "LEAST_PX", 1000)
        patch.setattr(encode_fit, "LEAST_STEPS", STEPS)
        patch.setattr(encode_fit, "MOST_STEPS", STEPS)
        patch.setattr(slide, "LEARNING_RATE", 3e-3)
        yield


@lru_cache
def picture(channels: int = 3) -> np.ndarray:
    """(290, 330, channels) uint8: generated tissue, and glass in the right column of chunks."""
    pixels = sample_region((900, 900), WH, size_wh=(2048, 2048), seed=1).copy()
    pixels[:, 256:] = (243, 242, 244)
    return np.ascontiguousarray(pixels[..., :channels])


def prefer(patch: pytest.MonkeyPatch, fitted: bool) -> list[Weights]:
    """Make the fitted networks, or the prior's, look cheaper on the sample. Lists those that are tried."""
    tried = []

    def trial(_: Any, model: OctavesModel, weights: Weights) -> tuple[float, float]:
        tried.append(weights)
        return (1e6 if (weights is None) == fitted else 0.0), 0.0

    patch.setattr(encode_octaves._Coder, "trial", trial)
    return tried


def no_fit(*_: Any, **__: Any) -> SlideFit:
    raise AssertionError("something was fitted")


def read(path: Path) -> tuple[np.ndarray, bytes | None]:
    """The slide's pixels, and what the file holds of its own networks."""
    with Decoder(path, device="cpu") as decoder:
        return decoder.read_region((0, 0), WH), decoder.container.weights()


def check(path: Path, report: EncodeReport, pixels: np.ndarray) -> bytes | None:
    """The file is what the report says of it. Returns its `WGHT`."""
    back, weights = read(path)
    assert report.psnr_db == pytest.approx(psnr(pixels, back), abs=1e-9)
    assert report.cinr_bytes == path.stat().st_size
    assert psnr(pixels, back) > 20
    return weights


# What is stored


@pytest.mark.parametrize("channels", [3, 1])
def test_a_file_holds_what_was_fitted(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = prefer(monkeypatch, True)
    out = tmp_path / "a.cinr"
    report = make(picture(channels), out, quality=60, effort="default")
    weights = check(out, report, picture(channels))
    assert [own is None for own in tried] == [True, True, False, False, False]  # the second at a coarser step
    # Nothing but their length tells them apart here, and the coarsest are the shortest.
    assert weights == min(filter(None, tried), key=len)
    assert weights[0] == 0b0111
    assert weights[1] in encode_fit.QUANTA
    nets = apply_deltas(prior(), weights)
    assert any((nets[0][name] != prior().nets[0][name]).any() for name in nets[0])
    make(picture(channels), tmp_path / "b.cinr", quality=60, effort="fast")
    assert read(tmp_path / "b.cinr")[1] is None


def test_the_priors_networks_are_kept_where_they_are_cheaper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = prefer(monkeypatch, False)
    monkeypatch.setattr(encode_fit, "QUICK", ())  # the networks alone tell the two efforts apart
    report = make(picture(), tmp_path / "a.cinr", quality=60, effort="default")
    assert len(tried) == 5
    assert check(tmp_path / "a.cinr", report, picture()) is None
    make(picture(), tmp_path / "b.cinr", quality=60, effort="fast")
    assert digest(tmp_path / "a.cinr") == digest(tmp_path / "b.cinr")


def test_what_a_trial_says_is_what_the_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slide is one unit, so the sample is the slide: bytes and squared error of a trial are those of the file.

    And they are the same where the file is refined: a trial never is.
    """
    trial, found = encode_octaves._Coder.trial, []

    def heard(coder: Any, model: OctavesModel, own: Weights) -> tuple[float, float]:
        found.append((model, own, *trial(coder, model, own)))
        return found[-1][2:]

    monkeypatch.setattr(encode_octaves._Coder, "trial", heard)
    refined = make(picture(), tmp_path / "refined.cinr", quality=60)
    before = found.copy()
    found.clear()
    monkeypatch.setattr(encode_fit, "QUICK", ())
    report = make(picture(), tmp_path / "a.cinr", quality=60)
    assert found == before
    assert report.psnr_db != refined.psnr_db
    weights = check(tmp_path / "a.cinr", report, picture())
    step = min(model.step for model, *_ in found)  # the coarser one is for what errors are worth
    own = next(each for each in found if each[:2] == (replace(each[0], step=step), weights))
    with Container.open(tmp_path / "a.cinr") as container:
        payloads = [container.chunk(*container.header.chunk_at(n)).payload for n in range(container.header.chunk_count)]
    assert own[2] == pytest.approx(sum(len(p) for p in payloads if p), abs=1e-6)
    assert own[3] == pytest.approx(255**2 * picture().size / 10 ** (report.psnr_db / 10), rel=1e-9)  # type: ignore[operator]


def test_effort_best_fits_for_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []

    class Heard(SlideFit):
        def run(self) -> Iterator[tuple[float, float]]:
            steps.append(self.steps)
            assert self._model.spread == pytest.approx(0.9 * 22 / 8)  # of the file's spacing, at quality 60
            return iter(())

    monkeypatch.setattr(encode_fit, "SlideFit", Heard)
    monkeypatch.setattr(encode_fit, "LEAST_STEPS", 1)
    monkeypatch.setattr(encode_fit, "MOST_STEPS", 200)
    for effort in ("default", "best"):
        make(picture(), tmp_path / f"{effort}.cinr", quality=60, effort=effort)
        # Nothing was learnt: the prior's networks, without a section that says so.
        assert read(tmp_path / f"{effort}.cinr")[1] is None
    assert steps == [2 * 256 * 290 // 64**2, 200]


# What is not fitted


@pytest.mark.parametrize(
    ("how", "constant", "value"),
    [
        ({"effort": "fast"}, "BATCH", 1),
        ({"effort": "default"}, "LEAST_PX", 256 * 290 + 1),
        ({"effort": "best"}, "CROP_PX", 291),
    ],
)
def test_nothing_is_fitted(
    how: dict[str, str], constant: str, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never by effort fast, nor where there is too little tissue to pay for it or a side is shorter than a crop."""
    monkeypatch.setattr(encode_fit, "SlideFit", no_fit)
    monkeypatch.setattr(encode_fit, constant, value)
    report = make(picture(), tmp_path / "a.cinr", quality=60, **how)
    assert check(tmp_path / "a.cinr", report, picture()) is None


def test_the_least_tissue_that_is_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, True)
    monkeypatch.setattr(encode_fit, "LEAST_PX", 256 * 290)
    make(picture(), tmp_path / "a.cinr", quality=60)
    assert read(tmp_path / "a.cinr")[1] is not None


# Stops


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the files that resumed encodings end in, by target."""
    found = {}
    for name, how in {"quality": {"quality": 60}, "ratio": {"ratio": 8.0}}.items():
        out = tmp_path_factory.mktemp("whole") / "a.cinr"
        with pytest.MonkeyPatch.context() as patch:
            prefer(patch, True)
            make(picture(), out, **how)
        assert read(out)[1] is not None
        found[name] = digest(out)
    return found


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize(("stage", "after"), [("fit", 1), ("fit", 3), ("fit", STEPS), ("encode", 1), ("write", 2)])
def test_a_stop_changes_nothing(
    stage: str,
    after: int,
    checkpoint_seconds: float,
    whole: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer(monkeypatch, True)
    monkeypatch.setattr(encode_fit, "CHECKPOINT_SECONDS", checkpoint_seconds)
    out = tmp_path / "a.cinr"
    with pytest.raises(_Stop):
        make(picture(), out, quality=60, progress=stopping(stage, after))
    stages: list[str] = []
    make(picture(), out, quality=60, resume=True, progress=lambda p: stages.append(p.stage))
    assert digest(out) == whole["quality"]
    # A stop comes before the save of its step.
    kept = {"fit": after - 1 if checkpoint_seconds == 0 else 0}.get(stage, STEPS)
    assert stages.count("fit") == STEPS - kept
    assert [p.name for p in tmp_path.iterdir()] == ["a.cinr"]


@pytest.mark.parametrize(("stage", "after"), [("search", 2), ("fit", 4), ("encode", 2)])
def test_a_stop_changes_nothing_where_a_target_is_searched(
    stage: str, after: int, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, True)
    monkeypatch.setattr(encode_fit, "CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "a.cinr"
    with pytest.raises(_Stop):
        make(picture(), out, ratio=8.0, progress=stopping(stage, after))
    make(picture(), out, ratio=8.0, resume=True)
    assert digest(out) == whole["ratio"]
    assert picture().size / out.stat().st_size == pytest.approx(8.0, rel=0.0201)


def test_a_choice_of_the_prior_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer(monkeypatch, False)
    out = tmp_path / "a.cinr"
    with pytest.raises(_Stop):
        make(picture(), out, quality=60, progress=stopping("encode", 1))
    monkeypatch.setattr(encode_fit, "SlideFit", no_fit)
    make(picture(), out, quality=60, resume=True)
    assert read(out)[1] is None


# The choice


def some_fit(change: int = 3) -> SlideFit:
    """Something that was fitted: weights of net 0 near the prior's."""
    nets = [dict(net) for net in prior().nets]
    name = "squeeze.weight"
    nets[0][name] = np.clip(nets[0][name].astype(int) + change, -127, 127).astype(np.int8)
    return SimpleNamespace(fitted=lambda: tuple(nets), which=(0,))  # type: ignore[return-value]


def encoding_of(model: OctavesModel, costs: dict[int, tuple[float, float]], coarser: tuple[float, float]) -> Any:
    """An encoding whose trials give `costs` by the quantum of the networks, 0 for the prior's; at other steps
    `coarser`."""

    def trial(tried: OctavesModel, weights: Weights) -> tuple[float, float]:
        if tried.equal_step != model.equal_step:
            assert (tried.equal_step / model.equal_step, weights) == (pytest.approx(1.15, rel=0.01), None)
            return coarser
        return costs[0 if weights is None else weights[1]]

    return SimpleNamespace(trial=trial)


PLAIN = OctavesModel("ab" * 32, 20480, (16384, 0, 0, 0, 16384, 0, 0, 0, 16384), (0, 0, 0)).at(20480)


@pytest.mark.parametrize("wins", [True, False])
def test_the_cheapest_networks_are_those_of_the_smallest_file_at_equal_error(wins: bool) -> None:
    """A coarser step saves 40 kB for 2e6 of squared error: so errors are worth a fiftieth of a byte."""
    weights = pack_deltas(prior(), some_fit().fitted(), 4, (0,))
    fitted_bytes = 5e5 - len(weights) - 1e6 / 50 + (-1 if wins else 1)
    costs = {0: (5e5, 8e6), 2: (9e9, 0.0), 8: (9e9, 0.0), 4: (fitted_bytes, 9e6)}
    encoding = encoding_of(PLAIN, costs, (4.6e5, 1e7))
    assert encode_fit._cheapest(encoding, PLAIN, prior(), some_fit()) == (weights if wins else None)


@pytest.mark.parametrize("coarser", [(5e5, 9e6), (5.1e5, 9e6), (4.6e5, 8e6), (4.6e5, 7e6)])
def test_where_a_coarser_step_saves_nothing_bytes_alone_count(coarser: tuple[float, float]) -> None:
    weights = pack_deltas(prior(), some_fit().fitted(), 4, (0,))
    costs = {0: (5e5, 8e6), 2: (9e9, 0.0), 8: (9e9, 0.0), 4: (5e5 - len(weights) - 1, 9e9)}
    assert encode_fit._cheapest(encoding_of(PLAIN, costs, coarser), PLAIN, prior(), some_fit()) == weights


@pytest.mark.parametrize("whole_fit", [True, False])
def test_networks_that_cannot_be_coded_with_are_not_tried(whole_fit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums that could leave 24 bits: of the fit as it is, or as one coarseness of the differences makes it."""
    fit = some_fit()
    if whole_fit:

        def refused() -> tuple[Net, ...]:
            raise ValueError("the sums of trunk2 reach too far")

        fit.fitted = refused  # type: ignore[method-assign]
    else:

        def apply(_: Any, weights: bytes) -> Any:
            if weights[1] == 8:
                raise ValueError("the sums of trunk2 reach too far")
            return apply_deltas(prior(), weights)

        monkeypatch.setattr(encode_fit, "apply_deltas", apply)
    quanta = [weights[1] for weights in encode_fit._fitted(prior(), fit)]
    assert quanta == ([] if whole_fit else [2, 4])
    costs = {0: (9e9, 0.0), 2: (1e4, 0.0), 4: (1e5, 0.0)}
    chosen = encode_fit._cheapest(encoding_of(PLAIN, costs, (9e9, 0.0)), PLAIN, prior(), fit)
    assert (chosen is None) == whole_fit


def test_windows_show_the_slide_about_what_is_coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[np.ndarray] = []

    def held(_: Any, given: list[np.ndarray], *args: Any, **how: Any) -> SlideFit:
        windows.extend(given)
        return SlideFit(prior(), given, *args, **how)

    monkeypatch.setattr(encode_fit, "SlideFit", held)
    monkeypatch.setattr(encode_fit, "WINDOW_PX", 100)
    make(picture(), tmp_path / "a.cinr", quality=60)
    assert [w.shape for w in windows] == [(100, 100, 3)] * 2
    tall = {w[:2].tobytes() for w in windows}
    assert {picture()[y : y + 2, x : x + 100].tobytes() for x, y in ((78, 78), (78, 190))} == tall
