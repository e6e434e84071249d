"""How far decoded pixels are from the original, as numbers: PSNR, SSIM, MS-SSIM and the worst tiles.

Everything is kept as sums, so that regions of a slide add up to figures of the slide (`Tally`), and leaving one region
out for an interval costs nothing. A figure that the pixels cannot give (MS-SSIM of a picture under 176 pixels a side,
anything over tissue where there is none) is absent rather than nan; PSNR of identical pixels is infinite.

Metrics, for `_tissue` over the pixels under the mask only (windows of SSIM by their centre):
    psnr_rgb: dB, peak 255, squared error over all three channels together.
    psnr_luma: dB, peak 255, of BT.601 luma 0.299 R + 0.587 G + 0.114 B, not rounded.
    ssim: of that luma, as `inrwsi.metrics.ssim_maps` has it.
    ms_ssim: of that luma. Wang, Simoncelli, Bovik 2003, equation 7, with the weights of section 3.2; each scale is a
        2x2 mean of the one before; a negative mean counts as 0.
    worst1pct_psnr: dB, RGB, of the 1 % (rounded up) of tiles with the largest error; all their pixels together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.metrics import WINDOW_PX, luma_of, ssim_maps

TILE_PX = 64  # a handful of nuclei across at 20x: what a reader would call one bad spot
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST_MS_SSIM_PX = WINDOW_PX << (len(SCALE_WEIGHTS) - 1)

_WORST_SHARE = 0.01


@dataclass(frozen=True)
class Sums:
    """Sums over some pixels, from which every figure but the worst tiles follows.

    Attributes:
        px: number of pixels.
        squares_rgb: sum of squared differences over their three channels.
        squares_luma: sum of squared differences of their luma.
        ssim, ssim_windows: sum of SSIM over windows, and how many.
        scales, scale_windows: sum of contrast x structure over the windows of each scale (at the coarsest: of SSIM),
            and how many.
    """

    px: int
    squares_rgb: int
    squares_luma: float
    ssim: float
    ssim_windows: int
    scales: tuple[float, ...]
    scale_windows: tuple[int, ...]

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.px + other.px,
            self.squares_rgb + other.squares_rgb,
            self.squares_luma + other.squares_luma,
            self.ssim + other.ssim,
            self.ssim_windows + other.ssim_windows,
            tuple(a + b for a, b in zip(self.scales, other.scales, strict=True)),
            tuple(a + b for a, b in zip(self.scale_windows, other.scale_windows, strict=True)),
        )

    @property
    def mse_rgb(self) -> float:
        """Mean squared error over the channels; nan without pixels."""
        return self.squares_rgb / (3 * self.px) if self.px else math.nan

    @property
    def scale_means(self) -> tuple[float, ...]:
        """Means of contrast x structure, finest scale first (at the coarsest: of SSIM); empty if one has no window."""
        if not all(self.scale_windows):
            return ()
        return tuple(s / n for s, n in zip(self.scales, self.scale_windows, strict=True))

    def metrics(self, suffix: str = "") -> dict[str, float]:
        """The figures that these sums give, their names ending in `suffix`."""
        found: dict[str, float] = {}
        if self.px:
            found["psnr_rgb"] = psnr_db(self.mse_rgb)
            found["psnr_luma"] = psnr_db(self.squares_luma / self.px)
        if self.ssim_windows:
            found["ssim"] = self.ssim / self.ssim_windows
        if self.scale_means:
            found["ms_ssim"] = ms_ssim_of(self.scale_means)
        return {name + suffix: value for name, value in found.items()}


@dataclass(frozen=True)
class Tally:
    """What was measured on one or more regions; `a + b` is both together.

    Attributes:
        whole, tissue: sums over all pixels, and over those of tissue (None if no mask was given).
        tiles: (squared error a sample, samples) of each tile.
        tissue_tiles: the same of tiles at least half tissue, over their tissue pixels.
    """

    whole: Sums
    tissue: Sums | None
    tiles: tuple[tuple[float, int], ...]
    tissue_tiles: tuple[tuple[float, int], ...]

    def __add__(self, other: Tally) -> Tally:
        if (self.tissue is None) != (other.tissue is None):
            raise UsageError("regions measured with a tissue mask and without one do not add up")
        tissue = self.tissue + other.tissue if self.tissue is not None and other.tissue is not None else None
        return Tally(self.whole + other.whole, tissue, self.tiles + other.tiles, self.tissue_tiles + other.tissue_tiles)

    def metrics(self) -> dict[str, float]:
        """Every figure of the module's list that these pixels give."""
        found = self.whole.metrics()
        if self.tissue is not None:
            found |= self.tissue.metrics("_tissue")
        for tiles, suffix in ((self.tiles, ""), (self.tissue_tiles, "_tissue")):
            if tiles:
                found["worst1pct_psnr" + suffix] = _worst_psnr_db(tiles)
        return found


def measure(
    original: np.ndarray, decoded: np.ndarray, tissue: np.ndarray | None = None, *, tile_px: int = TILE_PX
) -> dict[str, float]:
    """The figures of one pair of pictures; arguments as of `tally`, names as listed above."""
    return tally(original, decoded, tissue, tile_px=tile_px).metrics()


def tally(
    original: np.ndarray, decoded: np.ndarray, tissue: np.ndarray | None = None, *, tile_px: int = TILE_PX
) -> Tally:
    """Measure one region.

    Args:
        original, decoded: (h, w, 3) uint8 RGB.
        tissue: (h, w) bool.
        tile_px: side of the tiles for the worst 1 %; the region is cut into equal tiles of about this side.

    Raises:
        UsageError: shapes or dtypes do not fit, or the picture is empty.
    """
    check_pair(original, decoded)
    if tissue is not None and (tissue.shape != original.shape[:2] or tissue.dtype != np.bool_):
        raise UsageError(f"the mask must be bool {original.shape[:2]}; this is {tissue.dtype} {tissue.shape}")
    squares = np.square(original.astype(np.int32) - decoded).sum(axis=2)  # (h, w), at most 3 * 255^2
    luma = luma_of(original), luma_of(decoded)
    squares_luma = np.square(luma[0] - luma[1], dtype=np.float64)
    scales = _scales(*luma)
    masks = (None,) if tissue is None else (None, tissue)
    sums = [_sums(squares, squares_luma, scales, mask) for mask in masks]
    return Tally(
        sums[0],
        sums[1] if tissue is not None else None,
        _tiles(squares, None, tile_px),
        () if tissue is None else _tiles(squares, tissue, tile_px),
    )


def check_pair(original: np.ndarray, decoded: np.ndarray) -> None:
    """UsageError unless both are (h, w, 3) uint8 of one shape and not empty."""
    for name, pixels in (("original", original), ("decoded picture", decoded)):
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise UsageError(f"the {name} must be uint8 (h, w, 3), not {pixels.dtype} {pixels.shape}")
    if original.shape != decoded.shape:
        raise UsageError(f"the decoded picture must be {original.shape} like its original, not {decoded.shape}")


def psnr_db(mse: float) -> float:
    """10 log10(255^2 / mse); inf for 0."""
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def ms_ssim_of(scale_means: Sequence[float]) -> float:
    """Wang, Simoncelli, Bovik 2003, equation 7: the weighted product over the five scales."""
    return math.prod(max(mean, 0.0) ** weight for mean, weight in zip(scale_means, SCALE_WEIGHTS, strict=True))


def _sums(
    squares: np.ndarray,
    squares_luma: np.ndarray,
    scales: list[tuple[np.ndarray, np.ndarray]],
    mask: np.ndarray | None,
) -> Sums:
    """Sums over the pixels, and the windows, that `mask` (h, w) lets in; all without one."""
    ssim, structure, windows = 0.0, [0.0] * len(SCALE_WEIGHTS), [0] * len(SCALE_WEIGHTS)
    first_windows = 0
    at_scale = mask
    for number, maps in enumerate(scales):
        if number and at_scale is not None:
            at_scale = _halve(at_scale.astype(np.float32)) >= 0.5
        centre = np.s_[WINDOW_PX // 2 : -(WINDOW_PX // 2)]
        inside = True if at_scale is None else at_scale[centre, centre]
        count = maps[0].size if at_scale is None else int(np.count_nonzero(inside))
        if number == 0:
            ssim, first_windows = _sum(maps[0], inside), count
        if len(scales) == len(SCALE_WEIGHTS):
            structure[number] = _sum(maps[0] if number == len(scales) - 1 else maps[1], inside)
            windows[number] = count
    return Sums(
        px=squares.size if mask is None else int(np.count_nonzero(mask)),
        squares_rgb=int(squares.sum(dtype=np.int64) if mask is None else squares[mask].sum(dtype=np.int64)),
        squares_luma=_sum(squares_luma, True if mask is None else mask),
        ssim=ssim,
        ssim_windows=first_windows,
        scales=tuple(structure),
        scale_windows=tuple(windows),
    )


def _sum(values: np.ndarray, inside: Any) -> float:
    return float(np.sum(values, where=inside, dtype=np.float64))


def _scales(a: np.ndarray, b: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps of SSIM and of contrast x structure, (h - 10, w - 10) each, of as many scales as fit (one or all)."""
    smallest = min(a.shape)
    count = len(SCALE_WEIGHTS) if smallest >= SMALLEST_MS_SSIM_PX else int(smallest >= WINDOW_PX)
    found = []
    for number in range(count):
        if number:
            a, b = _halve(a), _halve(b)
        found.append(ssim_maps(a, b))
    return found


def _halve(values: np.ndarray) -> np.ndarray:
    """2x2 means; a last odd row or column is left out."""
    h, w = values.shape[0] // 2 * 2, values.shape[1] // 2 * 2
    rows = values[0:h:2, :w] + values[1:h:2, :w]
    return (rows[:, 0::2] + rows[:, 1::2]) / 4


def _tiles(squares: np.ndarray, mask: np.ndarray | None, tile_px: int) -> tuple[tuple[float, int], ...]:
    """(mean squared error, samples) of each tile; with a mask, of the tiles at least half under it, over its pixels."""
    if mask is not None:
        squares = np.where(mask, squares, 0)
    starts = [_starts(side, tile_px) for side in squares.shape]
    errors = _tile_sums(squares, *starts)
    shape = np.diff([*starts[0], squares.shape[0]])[:, None] * np.diff([*starts[1], squares.shape[1]])[None, :]
    px = shape if mask is None else _tile_sums(mask, *starts)
    kept = 2 * px >= shape
    return tuple((float(e / (3 * n)), int(3 * n)) for e, n in zip(errors[kept], px[kept], strict=True))


def _starts(side: int, tile_px: int) -> np.ndarray:
    """Where tiles of about `tile_px` begin, so that no sliver is left at the end."""
    count = max(1, round(side / tile_px))
    return np.arange(count) * side // count


def _tile_sums(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Sums over tiles that begin at these rows and columns: (rows, columns) int64."""
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.int64), columns, axis=1)


def _worst_psnr_db(tiles: tuple[tuple[float, int], ...]) -> float:
    worst = sorted(tiles, reverse=True)[: math.ceil(_WORST_SHARE * len(tiles))]
    return psnr_db(sum(mse * samples for mse, samples in worst) / sum(samples for _, samples in worst))
