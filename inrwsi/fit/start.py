"""Where a table starts: the tile itself, as a pyramid of what each level can add to the coarser ones.

A network without biases, under tables of noise, spends most of a short fit on finding the mean colour. Started from a
pyramid (Burt and Adelson 1983, on the levels' own vertices) it has the picture at the finest level's resolution from
the first step, and what is left to descent is what a pyramid cannot do.
"""

from __future__ import annotations

import numpy as np

from inrwsi.fields.grid import FRACTION, plan_axis
from inrwsi.fields.tables import TableConfig, tile_positions

BIAS = 0.5  # of the last feature at the coarsest level: the constant that the network lacks


def pyramid_start(config: TableConfig, tile_px: int, pixels: np.ndarray) -> np.ndarray:
    """A table whose first features, interpolated and summed over the levels, are nearly the tile.

    Hashed levels, whose entries serve several places, start at zero.

    Args:
        pixels: (h, w, channels) levels, uint8 or fp32.

    Returns:
        (entries, features) fp32, in units in which levels 0..255 span -1..1.
    """
    table = np.zeros((config.grid.entry_count, config.features), np.float32)
    h, w = pixels.shape[:2]
    halo = config.halo_px
    padded = np.pad(pixels, ((halo, halo), (halo, halo), (0, 0)), mode="edge")
    rest = opponent(padded / np.float32(127.5) - 1)[..., : config.features]
    rows = plan_axis(config.grid, tile_positions(tile_px, -halo, h + 2 * halo))
    columns = plan_axis(config.grid, tile_positions(tile_px, -halo, w + 2 * halo))
    for number, level in enumerate(config.grid.layout()):
        if level.hashed:
            continue
        y, x = rows[number], columns[number]
        wy, wx = y.weight.numpy() / FRACTION, x.weight.numpy() / FRACTION
        # the mean of the rest around each vertex, weighted as the vertex's own interpolation is
        mean = np.einsum("pv,pqc,qu->vuc", wy, rest, wx, optimize=True)
        weight = wy.sum(axis=0)[:, None] * wx.sum(axis=0)[None, :]
        grid = (mean / np.maximum(weight, 1e-6)[:, :, None]).astype(np.float32)
        seen = weight > 1e-6
        index = (
            level.offset + (x.vertex.numpy()[None, :] + y.vertex.numpy()[:, None] * level.resolution) % level.entries
        )
        table[index[seen], : rest.shape[2]] = grid[seen]
        rest = rest - np.einsum("pv,vuc,qu->pqc", wy, np.where(seen[:, :, None], grid, 0), wx, optimize=True)
    if config.features > rest.shape[2]:
        first = config.grid.layout()[0]
        table[first.offset : first.offset + first.entries, -1] = BIAS
    return table


def opponent(rgb: np.ndarray) -> np.ndarray:
    """Luma and two colour differences, which are small in stained tissue: (..., 3) to (..., 3); one channel stays."""
    if rgb.shape[-1] != 3:
        return rgb
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.stack([(r + 2 * g + b) / 4, (r - b) / 2, (2 * g - r - b) / 4], axis=-1)
