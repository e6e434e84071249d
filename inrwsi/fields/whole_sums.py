"""Convolutions of whole numbers that are exact on every device."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Valid convolution of whole numbers by whole numbers: the sums, as fp32 holds them.

    As matrix products in fp64, a tap of the kernel each. On CUDA `conv2d` is not exact: cuDNN may choose a Winograd or
    FFT algorithm, or TF32, as it likes for each shape; and to switch cuDNN off and on again is for all threads at once.

    Args:
        x: (B, C, h, w) of any dtype.
        weight: (outputs, C, kernel, kernel), likewise. Every sum, and every partial sum, must be below 2^53.
        dilation: of the kernel.

    Returns:
        (B, outputs, h - (kernel - 1) dilation, w - (kernel - 1) dilation) fp32.
    """
    rows, columns = weight.shape[2:]
    h, w = x.shape[2] - (rows - 1) * dilation, x.shape[3] - (columns - 1) * dilation
    x, weight = x.to(torch.float64), weight.to(torch.float64)
    total = torch.zeros(len(x), len(weight), h * w, dtype=torch.float64, device=x.device)
    for i, j in product(range(rows), range(columns)):
        down, right = i * dilation, j * dilation
        total += weight[:, :, i, j] @ x[:, :, down : down + h, right : right + w].flatten(2)
    return total.view(len(x), len(weight), h, w).to(torch.float32)
