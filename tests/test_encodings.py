"""The hash grid against a plain reference, on every dtype and path, and its layout against tiny-cuda-nn's rules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.benchmarks.plain_hash_grid import plain_encode, plain_gradient, plain_layout
from inrwsi.fields import encodings
from inrwsi.fields.encodings import GridLevel, HashEncoding, HashGridConfig, hash_encode

# Resolutions 4, 6, 9, 14, 21: the last two have more than 128 vertices and are hashed.
MIXED = HashGridConfig(levels=5, features=2, log2_table=7, base_resolution=4, per_level_scale=1.5)
NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}
PATHS = ["numba", "torch"]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    _force(request.param, monkeypatch)
    return request.param


def _force(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        monkeypatch.setattr(encodings, "cpu_kernels", lambda: None)
    else:
        pytest.importorskip("numba")


@pytest.fixture(autouse=True)
def _threads_as_before() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _table(config: HashGridConfig, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    values = torch.randn(config.entry_count, config.features, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype)


def _positions(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    inside = torch.rand(count, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    corners = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 1], [1, 0.25]], dtype=torch.float64)
    return torch.cat((inside, corners)).to(dtype)


def test_layout_of_the_papers_grid_is_tiny_cuda_nns() -> None:
    levels = HashGridConfig(24, 2, 24, 4, 1.5).layout()
    assert levels[0] == GridLevel(3.0, 4, 16, 0, False)
    assert levels[1] == GridLevel(5.0, 6, 40, 16, False)
    assert levels[2] == GridLevel(8.0, 9, 88, 56, False)
    assert [v.hashed for v in levels] == [False] * 18 + [True] * 6
    assert (levels[17].resolution, levels[17].entries) == (3942, 15_539_368)
    assert (levels[23].resolution, levels[23].entries) == (44_891, 2**24)
    assert levels[23].offset + 2**24 == 128_635_064


def test_scale_is_rounded_to_float32_like_tiny_cuda_nn() -> None:
    for config in (MIXED, HashGridConfig(16, 2, 19, 16, 1.38191288), HashGridConfig(12, 1, 22, 16, 2.0)):
        ours = [(v.resolution, v.entries, v.offset) for v in config.layout()]
        assert ours == [level[1:] for level in plain_layout(config)]
        assert all(float(np.float32(v.scale)) == v.scale for v in config.layout())


def test_a_level_is_dense_exactly_up_to_the_table_size() -> None:
    dense = HashGridConfig(1, 1, 8, 16, 1.0).layout()[0]
    hashed = HashGridConfig(1, 1, 8, 17, 1.0).layout()[0]
    assert (dense.entries, dense.hashed) == (256, False)
    assert (hashed.entries, hashed.hashed) == (256, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 0}, "levels is 0; it must be an integer from 1 to 32"),
        ({"levels": 33}, "levels is 33"),
        ({"levels": 2.0}, "levels is 2.0"),
        ({"levels": True}, "levels is True"),
        ({"features": 3}, "features is 3; it must be 1, 2, 4 or 8"),
        ({"log2_table": 29}, "log2_table is 29"),
        ({"log2_table": 3}, "log2_table is 3"),
        ({"base_resolution": 4097}, "base_resolution is 4097"),
        ({"per_level_scale": 0.99}, "per_level_scale is 0.99"),
        ({"per_level_scale": 4.01}, "per_level_scale is 4.01"),
        ({"per_level_scale": float("nan")}, "per_level_scale is nan"),
        ({"per_level_scale": "2"}, "per_level_scale is '2'"),
        ({"levels": 32, "per_level_scale": 4.0}, "the finest level has"),
        ({"levels": 25}, "the finest level has 67337 vertices a side; at most 65535 are supported"),
    ],
)
def test_config_refuses_numbers_out_of_range(change: dict[str, object], message: str) -> None:
    numbers = {"levels": 24, "features": 2, "log2_table": 24, "base_resolution": 4, "per_level_scale": 1.5} | change
    with pytest.raises(ValueError, match=message):
        HashGridConfig(**numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", NUMPY)
def test_forward_equals_the_plain_reference_to_the_bit(path: str, dtype: torch.dtype, features: int) -> None:
    config = HashGridConfig(5, features, 7, 4, 1.5)
    table = _table(config, dtype)
    xy = _positions(60, torch.float64 if dtype == torch.float64 else torch.float32)
    out = hash_encode(table, xy, config)
    expected = plain_encode(table.numpy(), xy.tolist(), config).astype(NUMPY[dtype])
    assert out.dtype == dtype
    assert out.shape == (66, 5 * features)
    np.testing.assert_array_equal(out.numpy(), expected)


@pytest.mark.parametrize("dtype", NUMPY)
def test_gradient_equals_the_plain_reference_to_the_bit(path: str, dtype: torch.dtype) -> None:
    real = torch.float64 if dtype == torch.float64 else torch.float32
    table = _table(MIXED, dtype).requires_grad_()
    xy = _positions(60, real)
    grad_out = torch.randn(66, 10, generator=torch.Generator().manual_seed(2)).to(dtype)
    hash_encode(table, xy, MIXED).backward(grad_out)
    expected = plain_gradient(grad_out.numpy(), xy.tolist(), MIXED, np.float64 if real == torch.float64 else np.float32)
    assert table.grad is not None
    assert table.grad.dtype == dtype
    np.testing.assert_array_equal(table.grad.numpy(), expected.astype(NUMPY[dtype]))


def test_gradcheck_over_dense_and_hashed_levels(path: str) -> None:
    config = HashGridConfig(levels=3, features=2, log2_table=5, base_resolution=3, per_level_scale=2.0)
    assert [v.hashed for v in config.layout()] == [False, True, True]
    table = _table(config, torch.float64).requires_grad_()
    xy = _positions(12, torch.float64)
    assert torch.autograd.gradcheck(lambda t: hash_encode(t, xy, config), (table,), nondet_tol=0.0)


@pytest.mark.parametrize("dtype", NUMPY)
def test_threads_and_paths_give_the_same_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    config = HashGridConfig(9, 2, 12, 4, 1.5)
    table = _table(config, dtype).requires_grad_()
    xy = _positions(10_007)  # several chunks a thread, the last one short
    grad_out = torch.randn(len(xy), 18, generator=torch.Generator().manual_seed(3)).to(dtype)

    def run() -> tuple[bytes, bytes]:
        out = hash_encode(table, xy, config)
        (grad,) = torch.autograd.grad(out, table, grad_out)
        return out.detach().numpy().tobytes(), grad.numpy().tobytes()

    results = []
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        results.append(run())
    torch.set_num_threads(1)
    _force("torch", monkeypatch)
    results.append(run())
    assert all(result == results[0] for result in results)


def test_fp16_reads_every_bit_pattern_exactly(path: str) -> None:
    # 256 cells a side: position (k - 0.5) / 256 falls on vertex k, with the weights 1, 0, 0, 0.
    config = HashGridConfig(levels=1, features=1, log2_table=17, base_resolution=257, per_level_scale=1.0)
    patterns = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    patterns = torch.where(patterns.isfinite(), patterns, 0)
    table = torch.zeros(config.entry_count, 1, dtype=torch.float16)
    table[: 257 * 257].view(257, 257)[1:, 1:] = patterns.view(256, 256)
    along = (torch.arange(256) + 0.5) / 256
    y, x = torch.meshgrid(along, along, indexing="ij")
    out = hash_encode(table, torch.stack((x, y), -1).view(-1, 2), config)
    assert torch.equal(out.view(-1), patterns)


def test_positions_past_the_border_count_as_the_border_and_nan_as_zero(path: str) -> None:
    table = _table(MIXED, torch.float32)
    outside = torch.tensor([[-0.3, 0.5], [1.7, 2.0], [float("nan"), 0.5], [float("inf"), -float("inf")]])
    border = torch.tensor([[0.0, 0.5], [1.0, 1.0], [0.0, 0.5], [1.0, 0.0]])
    assert torch.equal(hash_encode(table, outside, MIXED), hash_encode(table, border, MIXED))
    assert torch.isnan(outside[2, 0])  # the caller's tensor is not clamped in place


def test_no_positions_give_no_rows(path: str) -> None:
    table = _table(MIXED, torch.float32).requires_grad_()
    out = hash_encode(table, torch.zeros(0, 2), MIXED)
    out.sum().backward()
    assert out.shape == (0, 10)
    assert table.grad is not None
    assert not table.grad.any()


def test_grad_into_adds_and_leaves_autograd_empty(path: str) -> None:
    xy = _positions(20)
    full = _table(MIXED, torch.float32).requires_grad_()
    hash_encode(full, xy, MIXED).sum().backward()
    half = _table(MIXED, torch.float16).requires_grad_()
    buffer = torch.zeros(MIXED.entry_count, 2)
    for _ in range(2):
        hash_encode(half, xy, MIXED, grad_into=buffer).sum().backward()
    assert half.grad is None
    assert full.grad is not None
    torch.testing.assert_close(buffer, 2 * full.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, p: hash_encode(t[:-1], p, MIXED), r"the table is \(399, 2\)"),
        (lambda t, p: hash_encode(t.to(torch.bfloat16), p, MIXED), "bfloat16; it must be"),
        (lambda t, p: hash_encode(t.t().contiguous().t(), p, MIXED), "contiguous"),
        (lambda t, p: hash_encode(t, p[:, :1], MIXED), r"positions are \(4, 1\)"),
        (lambda t, p: hash_encode(t, p.long(), MIXED), "int64"),
        (lambda t, p: hash_encode(t, p.clone().requires_grad_(), MIXED), "positions require a gradient"),
        (lambda t, p: hash_encode(t, p, MIXED, torch.zeros(400, 2, dtype=torch.float16)), "grad_into is"),
        (lambda t, p: hash_encode(t, p, MIXED, torch.zeros(2, 400).t()), "grad_into is"),
    ],
)
def test_wrong_tensors_are_refused(call: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(_table(MIXED, torch.float32), torch.rand(4, 2, generator=torch.Generator().manual_seed(1)))


def test_module_starts_within_the_papers_range_and_by_its_generator() -> None:
    first, second = (HashEncoding(MIXED, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.table, second.table)
    assert first.table.abs().max() <= 1e-4
    assert 5.5e-5 < first.table.std() < 6.1e-5  # 1e-4 / sqrt(3)
    assert first(torch.rand(3, 2)).shape == (3, 10)


def test_works_without_numba() -> None:
    script = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from inrwsi.fields.encodings import *\n"
        "c = HashGridConfig(3, 2, 6, 4, 1.5)\n"
        "print(hash_encode(torch.ones(c.entry_count, 2), torch.full((1, 2), 0.25), c).tolist(), cpu_kernels())"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout == "[[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]] None\n"
