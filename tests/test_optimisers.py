"""SOAP by its formula, what it is for, and that a fit by it goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class
from inrwsi.fit import optimisers, tables
from inrwsi.fit.optimisers import ADAM, NAMED, Optimiser, Soap
from inrwsi.formats.source import open_source
from inrwsi.options import OPTIMISERS, EncodeOptions
from inrwsi.progress import Progress
from tests.test_model_files import picture_px

CPU = torch.device("cpu")


def test_names() -> None:
    assert tuple(NAMED) == OPTIMISERS
    assert NAMED["adam"] == ADAM
    with pytest.raises(UsageError, match="--optimiser is sgd; it should be one of adam, soap"):
        EncodeOptions("inif", optimiser="sgd")


def rotated(a: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.T @ a @ right


def test_steps_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithm 3 on a 2 x 2 matrix, by numpy: no step from the first gradient; then two, and new bases after each."""
    monkeypatch.setattr(optimisers, "REFRESH_STEPS", 1)
    grads = np.random.default_rng(3).normal(size=(3, 2, 2))
    weight = torch.ones(2, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    soap = Soap([weight], lr=0.1, betas=(0.9, 0.8), eps=1e-8)

    def step(grad: np.ndarray) -> np.ndarray:
        weight.grad = torch.from_numpy(grad.reshape(2, 2, 1, 1).copy())
        soap.step()
        return weight.detach().numpy()[:, :, 0, 0].copy()

    assert np.array_equal(step(grads[0]), np.ones((2, 2)))
    left, right = grads[0] @ grads[0].T, grads[0].T @ grads[0]
    ql, qr = (np.linalg.eigh(p)[1] for p in (left, right))
    want, mean, square = np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))
    for n, grad in enumerate(grads[1:], 1):
        mean = 0.9 * mean + 0.1 * grad
        square = 0.8 * square + 0.2 * rotated(grad, ql, qr) ** 2
        moved = rotated(mean, ql, qr) / (1 - 0.9**n) / (np.sqrt(square / (1 - 0.8**n)) + 1e-8)
        want = want - 0.1 * rotated(moved, ql.T, qr.T)
        assert np.allclose(step(grad), want, rtol=1e-10)
        left, right = 0.8 * left + 0.2 * grad @ grad.T, 0.8 * right + 0.2 * grad.T @ grad
        ql, qr = np.linalg.qr(left @ ql)[0], np.linalg.qr(right @ qr)[0]


@pytest.mark.parametrize("shape", [(7,), (), (3, 4)])
def test_what_is_no_matrix_has_adam(shape: tuple[int, ...]) -> None:
    """To the last bits of fp32; also a matrix of a group that says so, or both of whose sides are too long."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.ones(shape, requires_grad=True) for _ in range(2))
    groups = [{"params": [ours], "matrices": False}]
    settings = {"lr": 0.03, "betas": (0.9, 0.99), "eps": 1e-12}
    pair = (Soap(groups, **settings), torch.optim.Adam([theirs], **settings))
    for _ in range(5):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        for one in pair:
            one.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert (ours != 1).all()


@pytest.mark.parametrize(("shape", "sides"), [((3, 5, 2, 1), {"left"}), ((40, 9), {"right"}), ((40, 41), set())])
def test_a_long_side_gets_no_basis(shape: tuple[int, ...], sides: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimisers, "MOST_SIDE", 9)
    weight = torch.ones(shape, requires_grad=True)
    soap = Soap([weight])
    generator = torch.Generator().manual_seed(0)
    for _ in range(25):
        weight.grad = torch.randn(shape, generator=generator)
        soap.step()
    state = soap.state[weight]
    assert {name for name in ("left", "right") if name in state} == sides
    for side in sides:
        basis = state[f"{side}_basis"]
        assert torch.allclose(basis.mT @ basis, torch.eye(len(basis)), atol=1e-5)
    assert int(state["step"]) == (24 if sides else 25)


def test_an_ill_conditioned_quadratic_needs_far_fewer_steps() -> None:
    """|A (W - T) B|^2 to 1e-4, A and B of a condition of 100 along axes of their own: half of Adam's steps.

    In fp32 it takes 300 of them on one kind of processor and 490 on another.
    """

    def steps(optimiser: Optimiser, learning_rate: float, most: int) -> int:
        generator = torch.Generator().manual_seed(1)

        def bent(n: int) -> torch.Tensor:
            basis = torch.linalg.qr(torch.randn(n, n, generator=generator)).Q
            return basis @ torch.diag(torch.logspace(-2, 0, n)) @ basis.mT

        a, b, wanted = bent(16), bent(16), torch.randn(16, 16, generator=generator)
        weight = torch.zeros(16, 16, requires_grad=True)
        descent = optimiser.of([weight])
        descent.param_groups[0]["lr"] = learning_rate
        for step in range(most):
            descent.zero_grad()
            loss = (a @ (weight - wanted) @ b).square().sum()
            if loss < 1e-4:
                return step
            loss.backward()
            descent.step()
        return most

    assert steps(NAMED["soap"], 0.1, 1000) < 550
    assert [steps(ADAM, rate, 1000) for rate in (0.05, 0.2)] == [1000, 1000]


class Stop(Exception):
    pass


def test_a_networks_fit_goes_on_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the network of a table model, from its checkpoint: in floats, and after the rounding began."""
    monkeypatch.setattr(optimisers, "REFRESH_STEPS", 2)
    config, tile = config_class("ngp").for_bpp(2.0, 72, 3, 8), picture_px()[:, :72]

    def fit() -> tables.NetworkFit:
        keys = {"steps": 12, "batch": 1, "seed": 0, "device": CPU}
        return tables.NetworkFit(config, 72, [tile], optimiser=NAMED["soap"], **keys)

    whole = fit()
    states = {}
    while whole.step_number < 12:
        whole.step()
        if whole.step_number in (4, 10):
            arrays, meta = whole.state()
            states[whole.step_number] = ({k: v.copy() for k, v in arrays.items()}, json.loads(json.dumps(meta)))
    assert sum("left_basis" in name for name in states[4][0]) == 5  # layers of 4 x 128, and the last
    want = whole.frozen()
    for state in states.values():
        again = fit()
        again.restore(*state)
        while again.step_number < 12:
            again.step()
        assert all(np.array_equal(a, want[name]) for name, a in again.frozen().items())


def test_it_is_of_the_job_and_changes_the_file(tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "tiles" and progress.done > 0.6 * progress.total:
            raise Stop

    def options(name: str) -> EncodeOptions:
        return EncodeOptions("inif", bpp=2.0, tile_px=72, passes=4, optimiser=name, device="cpu")

    with open_source(picture_px()) as source:
        for name in OPTIMISERS:
            encode(source, tmp_path / f"{name}.cinr", options(name))
        with pytest.raises(Stop):
            encode(source, tmp_path / "slide.cinr", options("soap"), progress=stop)
        with pytest.raises(UsageError, match="was begun with --optimiser soap, now it is with --optimiser adam"):
            encode(source, tmp_path / "slide.cinr", options("adam"), resume=True)
        encode(source, tmp_path / "slide.cinr", options("soap"), resume=True)
    files = {p.stem: p.read_bytes() for p in tmp_path.iterdir()}
    assert files["slide"] == files["soap"] != files["adam"]
