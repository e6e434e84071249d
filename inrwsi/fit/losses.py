"""What a fit makes small: squared error, and what more matters to a reader of slides (guidance).

All are terms in units in which levels 0..255 span 2: samples of 8 bits, or a channel's range of 16 (`fields.ranges`).
All but `nuclei`, which weighs it, add to the squared error: alone, none of them says how light a pixel is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.fields.activations import SAMPLES_A_UNIT
from inrwsi.nuclei import nuclei_map, reduction, unmixing

MS_SSIM_WEIGHT = 0.1
STAIN_WEIGHT = 4.0
NUCLEI_WEIGHT = 4.0  # of a pixel of a nucleus, beyond the 1 of any pixel

# Wang, Simoncelli and Bovik 2003, section 3.2.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW_PX, SIGMA_PX = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Loss:
    """A loss by its name, one of `options.LOSSES`."""

    name: str = "mse"

    @property
    def of_patches(self) -> bool:
        """Whether it needs pixels with their neighbours."""
        return self.name == "ms-ssim"

    def weights(self, pixels: np.ndarray, mpp_um: float) -> np.ndarray | None:
        """(h, w, 1) fp32, how much each pixel of a tile counts; None where all count the same.

        Args:
            pixels: (h, w, 3) uint8.

        Raises:
            BackendUnavailable: of `nuclei`, scipy is not installed.
        """
        if self.name != "nuclei":
            return None
        h, w = pixels.shape[:2]
        found = nuclei_map(pixels, reduction(mpp_um)).astype(np.float32)
        rows, columns = (np.arange(n) * m // n for n, m in zip((h, w), found.shape, strict=True))
        weights: np.ndarray = 1 + NUCLEI_WEIGHT * found[rows][:, columns, None]
        return weights

    def __call__(self, y: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            y, target: (B, channels, h, w), levels 0..255.
            weights: (B, 1, h, w), from `weights`.

        Returns:
            A number.
        """
        squares = (y - target).square()
        if weights is not None:
            squares = squares * weights / weights.mean()
        loss = squares.mean() / SAMPLES_A_UNIT**2
        if self.name == "ms-ssim":
            return loss + MS_SSIM_WEIGHT * (1 - ms_ssim(y, target))
        if self.name == "stain":
            return loss + STAIN_WEIGHT * (stains(y) - stains(target)).square().mean()
        return loss


MSE = Loss()


def stains(rgb: Tensor) -> Tensor:
    """Optical densities of haematoxylin and eosin (Ruifrok and Johnston 2001), (B, 2, h, w), of (B, 3, h, w) samples.

    Samples beyond 0..255 count as these.
    """
    densities = -torch.log10((rgb.clamp(0, 255) + 1) / 256)
    matrix = torch.from_numpy(unmixing()[:, :2]).to(rgb)
    return torch.einsum("bchw,cs->bshw", densities, matrix)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM (Wang, Simoncelli and Bovik 2003), the mean over channels and pictures; of (B, channels, h, w) samples.

    It has as many of the paper's five scales as the window fits into, their weights scaled to sum to 1, and is 1 where
    it fits into none. Contrast below 0 counts as nearly 0.
    """
    scales = max(0, min(5, int(math.log2(max(1, min(a.shape[2:]) / WINDOW_PX))) + (min(a.shape[2:]) >= WINDOW_PX)))
    weights = [w / sum(SCALE_WEIGHTS[:scales]) for w in SCALE_WEIGHTS[:scales]]
    found = a.new_ones(a.shape[:2])
    for scale, weight in enumerate(weights):
        luminance, contrast = _ssim_parts(a, b)
        part = luminance * contrast if scale == scales - 1 else contrast
        found = found * part.mean(dim=(2, 3)).clamp_min(1e-4) ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return found.mean()


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast and structure, at every place of the window."""
    at = torch.arange(WINDOW_PX, dtype=a.dtype, device=a.device) - WINDOW_PX // 2
    taps = torch.exp(-(at**2) / (2 * SIGMA_PX**2))
    taps = (taps / taps.sum()).expand(a.shape[1], 1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, taps, groups=x.shape[1]), taps.transpose(2, 3), groups=x.shape[1])

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    return (2 * ma * mb + _C1) / (ma * ma + mb * mb + _C1), (2 * cov + _C2) / (va + vb + _C2)
