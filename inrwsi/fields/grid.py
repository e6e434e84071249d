"""The hash encoding on a regular grid of positions, as products with two small matrices.

Between the vertices of a level, bilinear interpolation on a grid of positions is separable: with W_y (h, n_y) and
W_x (w, n_x), two non-zeros a row, the level's features are W_y G W_x^T, where G (n_y, n_x) are the table's entries at
the vertices that the grid touches (Mueller 2022, section 3, steps 2-4). An entry is fetched once a vertex instead of
four times a position, the backward pass is two more products, and the result is that of `encodings.hash_encode`.

The weights are whole 256ths. With whole table entries up to 127 the sums stay below 2^24, so fp32 products are exact
in any order of summation: every device and thread count gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields.encodings import HASH_PRIME_Y, GridLevel, HashGridConfig

FRACTION = 256


@dataclass(frozen=True)
class Axis:
    """One level along one axis: `vertex` (n,) int64, and `weight` (positions, n) fp32, whole numbers of 256ths."""

    vertex: Tensor
    weight: Tensor


def plan_axis(config: HashGridConfig, u: np.ndarray) -> list[Axis]:
    """The levels' vertices and weights for ascending positions along one axis.

    Args:
        u: (n,) fp64 in [0, 1]. Computed on the CPU in fp64, so cell and fraction are the same everywhere.

    Returns:
        One `Axis` a level. Equal numbers of equally spaced positions give equal shapes, so that patches batch.
    """
    axes = []
    for level in config.layout():
        position = u * level.scale + 0.5
        cell = np.floor(position).astype(np.int64)
        upper = np.rint((position - cell) * FRACTION).astype(np.int64)
        spacing = level.scale * (u[-1] - u[0]) / max(len(u) - 1, 1)
        span = int(np.floor(spacing * (len(u) - 1))) + 3
        if span <= 2 * len(u):
            vertex = cell[0] + np.arange(span)
            at = cell - cell[0]
        else:  # finer than the positions: two vertices a position
            vertex = np.stack([cell, cell + 1], axis=1).reshape(-1)
            at = 2 * np.arange(len(u))
        weight = np.zeros((len(u), len(vertex)), np.float32)
        rows = np.arange(len(u))
        weight[rows, at] = FRACTION - upper
        weight[rows, at + 1] = upper
        axes.append(Axis(torch.from_numpy(vertex), torch.from_numpy(weight)))
    return axes


def entry_index(level: GridLevel, vertex_y: Tensor, vertex_x: Tensor) -> Tensor:
    """Row of the flat table for each vertex: (..., n_y) and (..., n_x) int64 to (..., n_y, n_x) int64."""
    y, x = vertex_y[..., :, None], vertex_x[..., None, :]
    if level.hashed:
        return level.offset + ((x ^ (y * HASH_PRIME_Y)) & (level.entries - 1))
    return level.offset + (x + y * level.resolution) % level.entries


def encode_grid(table: Tensor, config: HashGridConfig, rows: list[list[Axis]], columns: list[list[Axis]]) -> Tensor:
    """Features of B grids of positions.

    Args:
        table: (entries, features) fp32, or (B, entries, features) with one table a grid. Differentiable.
        rows, columns: B plans each, of the y and the x positions; equal shapes within the batch.

    Returns:
        (B, levels * features, h, w), in units of 1 / FRACTION^2 of a table entry.
    """
    batch = len(rows)
    if table.dim() == 3:
        first = torch.arange(batch, device=table.device)[:, None, None] * table.shape[1]
        table = table.reshape(-1, table.shape[2])
    else:
        first = torch.zeros((1, 1, 1), dtype=torch.int64, device=table.device)
    out = []
    for number, level in enumerate(config.layout()):
        vertex_y, weight_y = _stack(rows, number, table.device)
        vertex_x, weight_x = _stack(columns, number, table.device)
        index = entry_index(level, vertex_y, vertex_x) + first
        grid = table.index_select(0, index.reshape(-1)).reshape(*index.shape, -1)  # (B, n_y, n_x, F)
        n_y, n_x, features = grid.shape[1:]
        if table.device.type != "cpu" and not table.requires_grad:  # there fp32 may be TF32, which has 11 bits
            weight_y, weight_x, grid = weight_y.double(), weight_x.double(), grid.double()
        part = torch.bmm(weight_y, grid.reshape(batch, n_y, n_x * features))  # (B, h, n_x F)
        part = part.reshape(batch, -1, n_x, features).permute(0, 2, 3, 1).reshape(batch, n_x, -1)  # (B, n_x, F h)
        part = torch.bmm(weight_x, part)  # (B, w, F h)
        out.append(part.reshape(batch, weight_x.shape[1], features, -1).permute(0, 2, 3, 1))
    return torch.cat(out, dim=1).to(table.dtype)


def _stack(plans: list[list[Axis]], level: int, device: torch.device) -> tuple[Tensor, Tensor]:
    vertex = torch.stack([p[level].vertex for p in plans]).to(device)
    weight = torch.stack([p[level].weight for p in plans]).to(device)
    return vertex, weight
