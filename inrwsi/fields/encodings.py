"""Position encodings: the multiresolution hash grid in two dimensions, forward and backward.

Source: Mueller, Evans, Schied, Keller, "Instant neural graphics primitives with a multiresolution hash encoding"
(2022), section 3, equations 1-4, with the layout of tiny-cuda-nn, so that a table means the same in both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HASH_PRIME_Y = 2_654_435_761  # pi_2 of Mueller, equation 4; pi_1 is 1, which keeps rows coherent in memory
MAX_RESOLUTION = 65_535  # the finest level at which every version of tiny-cuda-nn agrees: resolution^2 fits uint32
TABLE_DTYPES = (torch.float16, torch.float32, torch.float64)
INITIAL_RANGE = 1e-4  # Mueller, section 4: entries start uniform within +-1e-4


@dataclass(frozen=True)
class GridLevel:
    """One level of a hash grid.

    Attributes:
        scale: cells a side, a float32 value; a position x in [0, 1] lies at x * scale + 0.5.
        resolution: vertices a side.
        entries: rows of the table.
        offset: index of the level's first row in the whole table.
        hashed: whether rows are found by hash; otherwise vertex (i, j) is row (i + j * resolution) mod entries.
    """

    scale: float
    resolution: int
    entries: int
    offset: int
    hashed: bool


@dataclass(frozen=True)
class HashGridConfig:
    """Shape of a multiresolution hash grid over the unit square.

    Attributes:
        levels: number of levels, 1 to 32.
        features: numbers an entry, 1, 2, 4 or 8.
        log2_table: log2 of the most entries a level may have, 4 to 28.
        base_resolution: vertices a side of level 0, 1 to 4096.
        per_level_scale: growth from level to level, 1 to 4; used as a float32.

    Raises:
        ValueError: a number is out of range, or the finest level has more than 65,535 vertices a side.
    """

    levels: int
    features: int
    log2_table: int
    base_resolution: int
    per_level_scale: float

    def __post_init__(self) -> None:
        _check_integer("levels", self.levels, 1, 32)
        _check_integer("features", self.features, 1, 8)
        _check_integer("log2_table", self.log2_table, 4, 28)
        _check_integer("base_resolution", self.base_resolution, 1, 4096)
        if self.features not in (1, 2, 4, 8):
            raise ValueError(f"features is {self.features}; it must be 1, 2, 4 or 8")
        scale = self.per_level_scale
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1.0 <= scale <= 4.0:
            raise ValueError(f"per_level_scale is {scale!r}; it must be a number from 1 to 4")
        finest = _resolution(_level_scale(self, self.levels - 1))
        if finest > MAX_RESOLUTION:
            raise ValueError(f"the finest level has {finest} vertices a side; at most {MAX_RESOLUTION} are supported")

    @property
    def outputs(self) -> int:
        """Features a position: levels * features."""
        return self.levels * self.features

    @property
    def entry_count(self) -> int:
        """Rows of the table, all levels."""
        last = self.layout()[-1]
        return last.offset + last.entries

    @property
    def parameter_count(self) -> int:
        """Numbers in the table: entry_count * features."""
        return self.entry_count * self.features

    def layout(self) -> tuple[GridLevel, ...]:
        """The levels, coarsest first. Level l starts in the table where level l - 1 ends."""
        return _layout(self)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be an integer from {low} to {high}")


def _level_scale(config: HashGridConfig, level: int) -> float:
    """Cells a side: exp2(level * log2(per_level_scale)) * base_resolution - 1 (Mueller, equation 2).

    tiny-cuda-nn works in float32 here, and the ceiling in `_resolution` would tell 5.0 from 5.0000005: each
    operation is rounded to float32, the two functions from their double values, so that no machine's libm decides.
    """
    log2_scale = np.float32(math.log2(np.float32(config.per_level_scale)))
    growth = np.float32(math.exp2(np.float32(level) * log2_scale))
    return float(growth * np.float32(config.base_resolution) - np.float32(1))


def _resolution(scale: float) -> int:
    return math.ceil(scale) + 1


@lru_cache(maxsize=64)
def _layout(config: HashGridConfig) -> tuple[GridLevel, ...]:
    levels = []
    offset = 0
    for level in range(config.levels):
        scale = _level_scale(config, level)
        resolution = _resolution(scale)
        vertices = resolution * resolution
        entries = min((vertices + 7) // 8 * 8, 1 << config.log2_table)
        levels.append(GridLevel(scale, resolution, entries, offset, hashed=vertices > entries))
        offset += entries
    return tuple(levels)


def compute_dtype(table: Tensor) -> torch.dtype:
    """The dtype of positions, weights and sums: float64 for a float64 table, float32 otherwise."""
    return torch.float64 if table.dtype == torch.float64 else torch.float32


def clamp_positions(xy01: Tensor, dtype: torch.dtype) -> Tensor:
    """Positions in `dtype`; outside [0, 1] they move to the border, NaN to 0: no index can leave a table."""
    return torch.nan_to_num(xy01.to(dtype), nan=0.0).clamp_(0.0, 1.0)


def corners(xy: Tensor, level: GridLevel) -> tuple[Tensor, Tensor]:
    """Rows and weights of the four vertices around each position, in the order (0,0), (1,0), (0,1), (1,1).

    Args:
        xy: (N, 2) float32 or float64 in [0, 1].
        level: the level of the grid.

    Returns:
        rows (N, 4) int64, counted from the start of the whole table, and weights (N, 4) in the dtype of xy.
    """
    # A float32 product is exact in float64: one rounding, as in the fused multiply-add of tiny-cuda-nn, on any device.
    position = (xy.double() * level.scale + 0.5).to(xy.dtype)
    cell = position.floor()
    fx, fy = (position - cell).unbind(1)
    i, j = cell.long().unbind(1)
    i = torch.stack((i, i + 1, i, i + 1), 1)
    j = torch.stack((j, j, j + 1, j + 1), 1)
    rows = (i ^ (j * HASH_PRIME_Y) if level.hashed else i + j * level.resolution) % level.entries
    gx, gy = 1 - fx, 1 - fy
    return rows + level.offset, torch.stack((gx * gy, fx * gy, gx * fy, fx * fy), 1)


def torch_forward(table: Tensor, xy: Tensor, config: HashGridConfig) -> Tensor:
    """The encoding in torch operations, for any device: (N, levels * features) in the dtype of xy.

    The four products are added in the order of `corners`, each rounded: the same bits on every device.
    """
    features = config.features
    out = xy.new_empty(xy.shape[0], config.outputs)
    for index, level in enumerate(config.layout()):
        rows, weights = corners(xy, level)
        terms = table[rows].to(xy.dtype) * weights[..., None]  # (N, 4, F)
        total = terms[:, 0] + terms[:, 1] + terms[:, 2] + terms[:, 3]
        out[:, index * features : (index + 1) * features] = total
    return out


def torch_backward(grad_out: Tensor, xy: Tensor, config: HashGridConfig, grad_table: Tensor) -> None:
    """Add the gradient of the table into `grad_table` (entry_count, F), in the dtype of xy, with torch operations."""
    features = config.features
    column = torch.arange(features, device=xy.device)
    flat = grad_table.view(-1)
    for index, level in enumerate(config.layout()):
        rows, weights = corners(xy, level)
        grad = grad_out[:, index * features : (index + 1) * features]
        terms = weights[..., None] * grad[:, None, :]  # (N, 4, F)
        flat.index_add_(0, (rows[..., None] * features + column).view(-1), terms.reshape(-1))


@lru_cache(maxsize=1)
def cpu_kernels() -> ModuleType | None:
    """The compiled CPU kernels, or None where numba is not installed."""
    try:
        from inrwsi.fields.backends import cpu
    except ImportError:
        return None
    return cpu


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, xy01: Tensor, config: HashGridConfig, grad_into: Tensor | None) -> Tensor:
        xy = clamp_positions(xy01, compute_dtype(table)).contiguous()
        kernels = cpu_kernels() if table.device.type == "cpu" else None
        run = torch_forward if kernels is None else kernels.forward
        ctx.save_for_backward(xy)
        ctx.config, ctx.grad_into, ctx.table_shape, ctx.table_dtype = config, grad_into, table.shape, table.dtype
        return run(table, xy, config).to(table.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, None, None, None]:
        (xy,) = ctx.saved_tensors
        kernels = cpu_kernels() if xy.device.type == "cpu" else None
        run = torch_backward if kernels is None else kernels.backward
        grad = ctx.grad_into
        if grad is None:
            grad = torch.zeros(ctx.table_shape, dtype=xy.dtype, device=xy.device)
        run(grad_out.to(xy.dtype).contiguous(), xy, ctx.config, grad)
        return (None if ctx.grad_into is not None else grad.to(ctx.table_dtype)), None, None, None


def hash_encode(table: Tensor, xy01: Tensor, config: HashGridConfig, grad_into: Tensor | None = None) -> Tensor:
    """Encode positions by d-linear interpolation in every level of a hash grid (Mueller, section 3).

    Args:
        table: (config.entry_count, config.features) float16, float32 or float64, contiguous; levels one after another.
        xy01: (N, 2) floating point, x then y, in units of the field's side. Values outside [0, 1] count as the border.
        config: the shape of the grid.
        grad_into: where a backward pass adds the table's gradient, instead of returning it to autograd: the shape of
            the table, float32 (float64 for a float64 table). A table of gigabytes needs one such buffer, not a
            new one a step. The table must require a gradient for a backward pass to happen.

    Returns:
        (N, levels * features) in the dtype of the table; level l has columns l * features onwards. Sums are
        float32 (float64 for a float64 table) and rounded once.

    The gradient goes to the table alone: positions are constants of a fit, and one that requires a gradient is an
    error. Gradients of a float16 table are added in float32 and rounded once. On a CPU the gradient has the same bits
    in every run and at any number of threads. On CUDA it has them under `torch.use_deterministic_algorithms(True)`
    and otherwise depends on the order of atomic additions.

    Raises:
        ValueError: a tensor has the wrong shape, dtype, layout or device.
    """
    _check_tensors(table, xy01, config, grad_into)
    return _HashEncode.apply(table, xy01, config, grad_into)


def _check_tensors(table: Tensor, xy01: Tensor, config: HashGridConfig, grad_into: Tensor | None) -> None:
    shape = (config.entry_count, config.features)
    if tuple(table.shape) != shape or table.dtype not in TABLE_DTYPES or not table.is_contiguous():
        raise ValueError(
            f"the table is {tuple(table.shape)} {table.dtype}; "
            f"it must be {shape}, contiguous, float16, float32 or float64"
        )
    if xy01.ndim != 2 or xy01.shape[1] != 2 or not xy01.is_floating_point() or xy01.device != table.device:
        raise ValueError(
            f"positions are {tuple(xy01.shape)} {xy01.dtype} on {xy01.device}; "
            f"they must be (N, 2) floating point on {table.device}"
        )
    if xy01.requires_grad:
        raise ValueError("positions require a gradient, which hash_encode does not have; detach them")
    if grad_into is not None and (
        grad_into.shape != table.shape
        or grad_into.dtype != compute_dtype(table)
        or grad_into.device != table.device
        or not grad_into.is_contiguous()
    ):
        raise ValueError(
            f"grad_into is {tuple(grad_into.shape)} {grad_into.dtype} on {grad_into.device}; "
            f"it must be {shape}, contiguous, {compute_dtype(table)} on {table.device}"
        )


class HashEncoding(nn.Module):
    """A hash grid with its table as the parameter `table` (entry_count, features)."""

    def __init__(
        self,
        config: HashGridConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.empty(config.entry_count, config.features, dtype=dtype, device=device))
        with torch.no_grad():
            self.table.uniform_(-INITIAL_RANGE, INITIAL_RANGE, generator=generator)

    def forward(self, xy01: Tensor, grad_into: Tensor | None = None) -> Tensor:
        """(N, 2) in [0, 1] to (N, levels * features); see `hash_encode`."""
        return hash_encode(self.table, xy01, self.config, grad_into)
