"""What a fit makes small: squared error, and what more matters to a reader of slides (guidance).

All are terms in units in which levels 0..255 span 2: samples of 8 bits, or a channel's range of 16 (`fields.ranges`).
All but `nuclei`, which weighs it, add to the squared error: alone, none of them says how light a pixel is. They are of
pictures: where a field is of what a base layer lacks, the base layer is added first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.fields.activations import SAMPLES_A_UNIT
from inrwsi.fields.ranges import ZERO_LEVEL
from inrwsi.fit.loss_network import LossNetwork, soft_dice_error
from inrwsi.nuclei import SMOOTH_PX, WORKING_MPP_UM, nuclei_map, nuclei_thresholds, reduction, unmixing
from inrwsi.options import FieldSettings

MS_SSIM_WEIGHT = 0.3
STAIN_WEIGHT = 4.0
NUCLEI_WEIGHT = 4.0  # of a pixel of a nucleus, beyond the 1 of any pixel
SEGMENTATION_WEIGHT = 0.06  # of the classical map
NETWORK_WEIGHT = 0.02  # of a network's segmentation, whose error is two terms
PERCEPTUAL_WEIGHT = 0.1
SOFTNESS_OD = 0.03  # of haematoxylin: above a threshold by it, a pixel is of a nucleus by 73 %

# Wang, Simoncelli and Bovik 2003, section 3.2.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW_PX, SIGMA_PX = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        name: one of `options.LOSSES`.
        mpp_um: micrometres a pixel, which say how large nuclei are.
        network: of `perceptual`; of `segmentation`, what is to segment instead of the classical map of nuclei.
    """

    name: str = "mse"
    mpp_um: float = WORKING_MPP_UM
    network: LossNetwork | None = None

    @property
    def of_patches(self) -> bool:
        """Whether it needs pixels with their neighbours."""
        return self.name in ("ms-ssim", "segmentation", "perceptual")

    def guide(self, pixels: np.ndarray, base: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What it has to know of a tile beside what the field is fitted to: the keywords of a call, (h, w, n) each.

        Args:
            pixels: (h, w, channels) uint8.
            base: the same of its base layer, where it has one.

        Raises:
            BackendUnavailable: it is of nuclei, and scipy is not installed.
        """
        if self.name == "mse":
            return {}
        factor = reduction(self.mpp_um)
        if self.name == "nuclei":
            return {"weights": 1 + NUCLEI_WEIGHT * _spread(nuclei_map(pixels, factor), pixels)}
        guide = {} if base is None else {"base": base}
        if self.name == "segmentation" and self.network is None:
            guide["thresholds"] = _spread(nuclei_thresholds(pixels, factor), pixels)
        return guide

    def __call__(
        self,
        y: Tensor,
        target: Tensor,
        *,
        weights: Tensor | None = None,
        thresholds: Tensor | None = None,
        base: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            y, target: (B, channels, h, w), levels 0..255; over a base layer, of what it lacks.
            weights, thresholds: (B, 1, h, w), and base: as y; from `guide`.

        Returns:
            A number.
        """
        squares = (y - target).square()
        if weights is not None:
            squares = squares * weights / weights.mean()
        loss = squares.mean() / SAMPLES_A_UNIT**2
        if self.name in ("mse", "nuclei"):
            return loss
        if base is not None:
            y, target = y + (base - ZERO_LEVEL), target + (base - ZERO_LEVEL)
        return loss + self._guidance(y, target, thresholds)

    def _guidance(self, y: Tensor, target: Tensor, thresholds: Tensor | None) -> Tensor:
        """What adds to the squared error, of pictures."""
        if self.name == "ms-ssim":
            return MS_SSIM_WEIGHT * (1 - ms_ssim(y, target))
        if self.name == "stain":
            return STAIN_WEIGHT * (stains(y) - stains(target)).square().mean()
        if self.name == "perceptual" and self.network is not None:
            return PERCEPTUAL_WEIGHT * self.network.feature_error(y, target)
        if self.name == "segmentation" and self.network is not None:
            return NETWORK_WEIGHT * self.network.segmentation_error(y, target)
        if self.name == "segmentation" and thresholds is not None:
            factor = reduction(self.mpp_um)
            maps = (soft_nuclei(x, thresholds, factor) for x in (y, target))
            return SEGMENTATION_WEIGHT * soft_dice_error(*maps)
        raise ValueError(f"there is no loss {self.name!r}, or it lacks its network or its thresholds")


MSE = Loss()


def loss_of(
    settings: FieldSettings, *, mpp_um: tuple[float, float] | None, channels: int, device: torch.device
) -> Loss:
    """The loss that is asked for, with the network that the user gives.

    Args:
        mpp_um: of the slide; where it is not known, nuclei are looked for as at `WORKING_MPP_UM`.
        channels: of the slide.

    Raises:
        UsageError: the network is of no use; see `LossNetwork`.
    """
    network = None
    if settings.loss_network is not None:
        segments = settings.loss == "segmentation"
        network = LossNetwork(settings.loss_network, channels=channels, device=device, segments=segments)
    return Loss(settings.loss, WORKING_MPP_UM if mpp_um is None else sum(mpp_um) / 2, network)


def stains(rgb: Tensor) -> Tensor:
    """Optical densities of haematoxylin and eosin (Ruifrok and Johnston 2001), (B, 2, h, w), of (B, 3, h, w) samples.

    Samples beyond 0..255 count as these.
    """
    densities = -torch.log10((rgb.clamp(0, 255) + 1) / 256)
    matrix = torch.from_numpy(unmixing()[:, :2]).to(rgb)
    return torch.einsum("bchw,cs->bshw", densities, matrix)


def soft_nuclei(rgb: Tensor, thresholds: Tensor, factor: int) -> Tensor:
    """How far each pixel is of a nucleus, 0..1: `nuclei.nuclei_map` as far as it has a gradient.

    That is haematoxylin, smoothed, against a threshold, by a sigmoid; without opening and filling of holes. A picture
    is continued by its outermost pixels.

    Args:
        rgb: (B, 3, h, w), samples 0..255.
        thresholds: (B, 1, h, w), of the original.
        factor: pixels along the side of a working pixel, from `nuclei.reduction`.

    Returns:
        (B, 1, h, w).
    """
    sigma_px = SMOOTH_PX * factor
    smooth = _blurred(stains(rgb)[:, :1], round(3 * sigma_px), sigma_px, continued=True)
    return torch.sigmoid((smooth - thresholds) / SOFTNESS_OD)


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
    ma, mb, aa, bb, ab = _blurred(torch.cat([a, b, a * a, b * b, a * b]), WINDOW_PX // 2, SIGMA_PX).chunk(5)
    va, vb, cov = aa - ma * ma, bb - mb * mb, ab - ma * mb
    return (2 * ma * mb + _C1) / (ma * ma + mb * mb + _C1), (2 * cov + _C2) / (va + vb + _C2)


def _blurred(x: Tensor, radius_px: int, sigma_px: float, *, continued: bool = False) -> Tensor:
    """(..., h, w) by a Gaussian that is cut at its radius, where that fits in; or everywhere, edges continued.

    As products with band matrices, which on patches take a fourth of a convolution's time on a CPU.
    """
    rows, columns = (_blur_matrix(n, radius_px, sigma_px, continued).to(x) for n in x.shape[-2:])
    return rows @ x @ columns.T


@lru_cache(maxsize=64)
def _blur_matrix(length: int, radius_px: int, sigma_px: float, continued: bool) -> Tensor:
    """(blurred, length) fp64."""
    offsets = torch.arange(-radius_px, radius_px + 1)
    taps = torch.exp(-(offsets.double() ** 2) / (2 * sigma_px**2))
    centres = torch.arange(length) if continued else torch.arange(radius_px, length - radius_px)
    at = (centres[:, None] + offsets).clamp(0, length - 1)
    matrix = torch.zeros(len(centres), length, dtype=torch.float64)
    return matrix.scatter_add_(1, at, (taps / taps.sum()).expand(len(centres), -1))


def _spread(of_working: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A map in working pixels over those of a tile, (h, w, 1) fp32."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(pixels.shape[:2], of_working.shape, strict=True))
    spread: np.ndarray = of_working[rows][:, columns, None].astype(np.float32)
    return spread
