"""The network that `benchmarks.guidance` hands to `--loss-network`: small, and made in some seconds.

Four convolutions on optical densities, which see 15 pixels about each, trained to give the classical map of nuclei.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inrwsi.formats.source import open_source
from inrwsi.nuclei import nuclei_map

SIDE_PX = 1024  # of the middle of the slide, on which it is trained but for the right quarter, which tells its Dice
PATCH_PX, BATCH, STEPS, LEARNING_RATE = 64, 8, 400, 5e-3
WIDTH = 12
DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class Trained:
    """What it is: the slide, its numbers, and the Dice coefficient with the classical map on what it did not see."""

    slide: str
    weights: int
    steps: int
    dice: float


class Densities(nn.Module):
    """Optical densities of pictures within 0..1."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return -torch.log10((255 * pictures + 1) / 256)


def network() -> nn.Sequential:
    """(B, 3, h, w) within 0..1 to logits, (B, 1, h, w)."""
    layers: list[nn.Module] = [Densities()]
    for inputs, dilation in zip((3, WIDTH, WIDTH), DILATIONS, strict=True):
        layers += [nn.Conv2d(inputs, WIDTH, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 1))


def train(slide: Path, features: Path, segmentation: Path, *, steps: int = STEPS) -> Trained:
    """Train it on the middle of a slide of about 0.5 um a pixel; the same machine gives the same network.

    Args:
        features, segmentation: TorchScript files to write, of all but its last layer, and of all of it.
    """
    with open_source(slide) as source:
        x, y = (source.width - SIDE_PX) // 2, (source.height - SIDE_PX) // 2
        rgb = np.ascontiguousarray(source.read((x, y), (SIDE_PX, SIDE_PX))[..., :3])
    pictures = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 255
    nuclei = torch.from_numpy(nuclei_map(rgb)).float()[None, None]
    border = SIDE_PX * 3 // 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = network()
    _descend(net, pictures[..., :border], nuclei[..., :border], steps)
    with torch.no_grad():
        found = net(pictures[..., border:]) > 0
    wanted = nuclei[..., border:] > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit.*")
        torch.jit.script(net).save(str(segmentation))
        torch.jit.script(net[:-1]).save(str(features))
    return Trained(
        slide=slide.name,
        weights=sum(p.numel() for p in net.parameters()),
        steps=steps,
        dice=2 * int((found & wanted).sum()) / max(1, int(found.sum()) + int(wanted.sum())),
    )


def _descend(net: nn.Module, pictures: Tensor, nuclei: Tensor, steps: int) -> None:
    rng = np.random.default_rng(0)
    optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        corners = [tuple(int(rng.integers(n - PATCH_PX + 1)) for n in nuclei.shape[2:]) for _ in range(BATCH)]
        patches, wanted = (
            torch.cat([x[..., r : r + PATCH_PX, c : c + PATCH_PX] for r, c in corners]) for x in (pictures, nuclei)
        )
        optimiser.zero_grad(set_to_none=True)
        F.binary_cross_entropy_with_logits(net(patches), wanted).backward()
        optimiser.step()
