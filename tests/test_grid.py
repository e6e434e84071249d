"""The grid form of the hash encoding against the encoding itself, and its exactness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrwsi.fields.encodings import HashGridConfig, hash_encode
from inrwsi.fields.grid import FRACTION, encode_grid, plan_axis

CONFIG = HashGridConfig(levels=7, features=2, log2_table=9, base_resolution=4, per_level_scale=1.8)


def _positions(start: float, count: int, extent: float = 300.0) -> np.ndarray:
    return (start + 0.5 + np.arange(count)) / extent


@pytest.mark.parametrize("config", [CONFIG, HashGridConfig(3, 4, 10, 16, 4.0)])
def test_it_is_the_hash_encoding(config: HashGridConfig) -> None:
    """Within what 256ths of a cell leave: two weights off by 1/512 each, on entries within +-1."""
    assert any(level.hashed for level in config.layout())
    assert any(not level.hashed for level in config.layout())
    table = torch.rand((config.entry_count, config.features), generator=torch.Generator().manual_seed(1)) * 2 - 1
    u, v = _positions(31, 40), _positions(200, 57)
    grid = encode_grid(table, config, [plan_axis(config, u)], [plan_axis(config, v)])[0] / FRACTION**2
    y, x = np.meshgrid(u, v, indexing="ij")
    points = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1)).float()
    want = hash_encode(table, points, config).T.reshape(-1, 40, 57)
    assert grid.shape == want.shape == (config.outputs, 40, 57)
    assert (grid - want).abs().max() < 4 * 2 / 512
    assert (grid - want).abs().mean() < 0.002


def test_levels_finer_than_the_positions() -> None:
    """A level with more vertices than positions takes two vertices a position, and still is the encoding."""
    config = HashGridConfig(2, 1, 12, 64, 4.0)
    table = torch.rand((config.entry_count, 1), generator=torch.Generator().manual_seed(2))
    u = _positions(3, 12, extent=20.0)
    plan = plan_axis(config, u)
    assert plan[1].weight.shape == (12, 24)
    grid = encode_grid(table, config, [plan], [plan])[0] / FRACTION**2
    y, x = np.meshgrid(u, u, indexing="ij")
    want = hash_encode(table, torch.from_numpy(np.stack([x.ravel(), y.ravel()], 1)).float(), config).T.reshape(
        2, 12, 12
    )
    assert (grid - want).abs().max() < 4 / 512


def test_whole_entries_give_exact_sums() -> None:
    """int64 arithmetic gives the same numbers: nothing is lost in fp32, whatever the order of summation."""
    rng = np.random.default_rng(3)
    table = rng.integers(-127, 128, (CONFIG.entry_count, 2))
    rows, columns = plan_axis(CONFIG, _positions(7, 33)), plan_axis(CONFIG, _positions(90, 29))
    got = encode_grid(torch.from_numpy(table).float(), CONFIG, [rows], [columns])[0].numpy()
    for number, level in enumerate(CONFIG.layout()):
        vy, wy = rows[number].vertex.numpy(), rows[number].weight.numpy().astype(np.int64)
        vx, wx = columns[number].vertex.numpy(), columns[number].weight.numpy().astype(np.int64)
        assert (wy.sum(axis=1) == FRACTION).all()
        for feature in range(2):
            if level.hashed:
                index = vx[None, :] ^ ((vy[:, None] * 2654435761) & 0xFFFFFFFF)
                index = index % level.entries
            else:
                index = (vx[None, :] + vy[:, None] * level.resolution) % level.entries
            whole = wy @ table[level.offset + index, feature] @ wx.T
            assert np.abs(whole).max() < 2**24
            assert np.array_equal(got[number * 2 + feature].astype(np.int64), whole)


def test_a_batch_is_its_members() -> None:
    """Patches at different places, with a table each, come out as they do alone."""
    tables = torch.randint(-31, 32, (3, CONFIG.entry_count, 2), generator=torch.Generator().manual_seed(4)).float()
    plans = [plan_axis(CONFIG, _positions(s, 25)) for s in (0, 17, 111)]
    together = encode_grid(tables, CONFIG, plans, plans[::-1])
    for i in range(3):
        alone = encode_grid(tables[i], CONFIG, [plans[i]], [plans[2 - i]])
        assert torch.equal(together[i], alone[0])


def test_gradient_is_the_transpose() -> None:
    table = torch.rand((CONFIG.entry_count, 2), dtype=torch.float32).requires_grad_()
    plan = plan_axis(CONFIG, _positions(5, 9))
    seed = torch.rand((1, CONFIG.outputs, 9, 9))
    y = encode_grid(table, CONFIG, [plan], [plan])
    (grad,) = torch.autograd.grad(y, table, seed)
    # <J t, s> = <t, J^T s> for a linear map
    assert (y * seed).sum().item() == pytest.approx((table * grad).sum().item(), rel=1e-5)
