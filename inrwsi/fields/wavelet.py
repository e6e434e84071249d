"""The 9/7 wavelet of JPEG 2000 by lifting, one level in two dimensions, in floats: for training and analysis.

Source: Daubechies and Sweldens 1998, section 7.7; ISO/IEC 15444-1, Annex F. Borders are mirrored whole-sample, so that
an
image of even sides gives bands of half the sides and needs nothing from outside itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
LOW_GAIN = math.sqrt(2) / 1.230174104914001  # makes the one-dimensional transform orthonormal, very nearly
HIGH_GAIN = 1.230174104914001 / math.sqrt(2)


def _next(x: Tensor) -> Tensor:
    """Each sample's right neighbour of its own kind, mirrored at the end. Along the last axis."""
    return torch.cat((x[..., 1:], x[..., -1:]), -1)


def _last(x: Tensor) -> Tensor:
    return torch.cat((x[..., :1], x[..., :-1]), -1)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    even, odd = x[..., 0::2], x[..., 1::2]
    a, b, c, d = LIFTING
    odd = odd + a * (even + _next(even))
    even = even + b * (odd + _last(odd))
    odd = odd + c * (even + _next(even))
    even = even + d * (odd + _last(odd))
    return even * LOW_GAIN, odd * HIGH_GAIN


def join(low: Tensor, high: Tensor) -> Tensor:
    """Lines of the two halves, at the orthonormal scale: (..., n) each to (..., 2 n)."""
    a, b, c, d = LIFTING
    even, odd = low / LOW_GAIN, high / HIGH_GAIN
    even = even - d * (odd + _last(odd))
    odd = odd - c * (even + _next(even))
    even = even - b * (odd + _last(odd))
    odd = odd - a * (even + _next(even))
    return torch.stack((even, odd), -1).flatten(-2)


def forward97(x: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the transform.

    Args:
        x: (B, C, H, W), H and W even.

    Returns:
        The octave below, (B, C, H/2, W/2), at the scale of `x` (its mean is kept), and the details
        (B, 3 C, H/2, W/2): for each channel horizontal, vertical and diagonal, at the orthonormal scale.
    """
    low, high = _split(x)
    ll, lh = (part.transpose(-1, -2) for part in _split(low.transpose(-1, -2)))
    hl, hh = (part.transpose(-1, -2) for part in _split(high.transpose(-1, -2)))
    return ll * 0.5, torch.stack((hl, lh, hh), 2).flatten(1, 2)


def inverse97(below: Tensor, details: Tensor) -> Tensor:
    """The inverse of `forward97`: (B, C, H, W)."""
    hl, lh, hh = details.unflatten(1, (-1, 3)).unbind(2)
    low = join((below * 2.0).transpose(-1, -2), lh.transpose(-1, -2)).transpose(-1, -2)
    high = join(hl.transpose(-1, -2), hh.transpose(-1, -2)).transpose(-1, -2)
    return join(low, high)


# At the last and the first sample of a line the wavelet is not orthonormal: what is wrong with the octave below shows
# twice there, and the details beside it can take most of that back. The least squares' answer, on a line.
_AT_LAST, _AT_FIRST = 0.449, -0.220


def border_details(missing: Tensor) -> Tensor:
    """What to add to the details so that the picture's borders are nearest to the truth, given what is below.

    Args:
        missing: (B, C, h, w), the true octave below less the decoded one.

    Returns:
        (B, 3 C, h, w), to be added to the details of `forward97`; zero away from the borders.
    """
    weight = [torch.zeros(n, dtype=missing.dtype, device=missing.device) for n in missing.shape[-2:]]
    for w in weight:
        w[0], w[-1] = _AT_FIRST, _AT_LAST
    down, across = 2.0 * missing * weight[0][:, None], 2.0 * missing * weight[1]
    return torch.stack((across, down, -down * weight[1]), 2).flatten(1, 2)
