"""What a fit sees at a time: squares of a tile, or every n-th pixel of all of it; and the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from inrwsi.fields.field import BLOCK_PX

PATCH_PX = BLOCK_PX
STRIDE = 0.8  # of a patch: the reference's 20 % overlap
FINAL_LR = 0.05  # of the first

Guide = Mapping[str, np.ndarray]  # what a loss is to know of a tile's pixels beside their target: (h, w, n) each
NO_GUIDE: Guide = MappingProxyType({})


@dataclass(frozen=True)
class Patch:
    """Pixels of a tile to fit: which tile of the batch, the first one, how many, and from one to the next."""

    tile: int
    x: int
    y: int
    w: int
    h: int
    stride: int = 1


def patch_grid(wh: tuple[int, int], tile: int, rng: np.random.Generator, patch_px: int = PATCH_PX) -> list[Patch]:
    """One pass over a tile: patches `STRIDE` apart, the whole grid jittered, every pixel covered."""
    w, h = min(patch_px, wh[0]), min(patch_px, wh[1])
    stride = int(patch_px * STRIDE)
    ys, xs = _starts(wh[1], h, stride, rng), _starts(wh[0], w, stride, rng)
    return [Patch(tile, x, y, w, h) for y in ys for x in xs]


def _starts(length: int, patch: int, stride: int, rng: np.random.Generator) -> list[int]:
    if length == patch:
        return [0]
    first = -int(rng.integers(0, stride))
    return sorted({min(max(s, 0), length - patch) for s in range(first, length, stride)})


def phases(wh: tuple[int, int], about_px: int, rng: np.random.Generator) -> list[Patch]:
    """One pass over a tile, for networks that see a pixel alone: about `about_px` pixels spread over all of it.

    Each is every n-th pixel along both axes; together they are every pixel once, in random order.
    """
    stride = max(1, min(round(math.sqrt(wh[0] * wh[1] / about_px)), *wh))
    found = [
        Patch(0, x, y, -(-(wh[0] - x) // stride), -(-(wh[1] - y) // stride), stride)
        for y in range(stride)
        for x in range(stride)
    ]
    return [found[i] for i in rng.permutation(len(found))]


def batches(patches: Sequence[Patch], size: int, rng: np.random.Generator) -> Iterator[list[Patch]]:
    """The patches in random order, `size` at a time, equal shapes together."""
    order = rng.permutation(len(patches))
    shapes = sorted({(p.w, p.h) for p in patches})
    for shape in shapes:
        alike = [patches[i] for i in order if (patches[i].w, patches[i].h) == shape]
        for i in range(0, len(alike), size):
            yield alike[i : i + size]


def targets(tiles: Sequence[np.ndarray], batch: Sequence[Patch], device: torch.device) -> Tensor:
    """(B, channels, h, w) fp32 levels 0..255 of the patches."""
    cut = np.stack([tiles[p.tile][p.y :: p.stride, p.x :: p.stride][: p.h, : p.w] for p in batch])
    return torch.from_numpy(cut).to(device).permute(0, 3, 1, 2).float()


def guidance(guides: Sequence[Guide], batch: Sequence[Patch], device: torch.device) -> dict[str, Tensor]:
    """(B, n, h, w) fp32 of each name in the tiles' guides, which all have the same names."""
    names = guides[0] if guides else ()
    return {name: targets([guide[name] for guide in guides], batch, device) for name in names}


def cosine(step: int, steps: int) -> float:
    """Share of the first learning rate at `step`: a cosine from 1 to FINAL_LR, after a short warm-up."""
    warm = max(1, min(20, steps // 10))
    if step < warm:
        return (step + 1) / warm
    t = (step - warm) / max(1, steps - warm)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * t))
