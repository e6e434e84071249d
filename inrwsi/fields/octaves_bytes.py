"""Convolutions of 8-bit numbers for whole chunks of model `octaves` on a CPU: half the time of those in bfloat16.

They serve layers whose inputs are activations alone, from 0 to 255. Sums are whole numbers in any order; what is given
back is a sum rounded to bfloat16, as the other ways give it. On processors that have no bfloat16 a chunk takes 0.6 of
the time with them. Coefficients, from -255 to 255, could go in twice, as what they are above 0 and below it: to take
them apart costs what the convolution saves.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.fields.octaves_model import CHUNK_PX

SIDE = CHUNK_PX // 2  # sites of a whole chunk, along each axis
_PLAIN = ([1, 1], [0, 0], [1, 1], 1)  # stride, padding, dilation, groups
_NO_MORE: tuple[list[float], str] = ([], "")  # arguments and method of what might follow a sum

Kind = tuple[int, int, int]
"""Outputs, inputs and the side of the kernel."""


class ByteLayer:
    """A layer of a whole chunk.

    Args:
        weight: (C', C, 3, 3) or (C', C, 1, 1) int8.
    """

    def __init__(self, weight: np.ndarray) -> None:
        outputs, inputs, kernel, _ = weight.shape
        self.shapes = _shapes((outputs, inputs, kernel))
        held = torch.from_numpy(np.ascontiguousarray(weight))
        self._ones, self._zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)
        if kernel > 1:
            shape = [1, inputs, *self.shapes[0][:2]]
            self._packed = torch.ops.onednn.qconv_prepack(held, self._ones, 1.0, 0, *_PLAIN, shape)
        else:
            self._packed = torch.ops.onednn.qlinear_prepack(held[:, :, 0, 0].contiguous(), list(self.shapes[0]))

    def sums(self, x: np.ndarray) -> Tensor:
        """(n, C') bfloat16 of (n, C) uint8, or (1, C', h - 2, w - 2), channels last in memory, of (h, w, C).

        Known to be exact for `shapes` alone.
        """
        given, rounded = torch.from_numpy(x), (1.0, 0, torch.bfloat16, "none", *_NO_MORE)
        weights = (self._packed, self._ones, self._zeros, None)
        if x.ndim == 2:
            return torch.ops.onednn.qlinear_pointwise(given, 1.0, 0, *weights, *rounded)
        return torch.ops.onednn.qconv2d_pointwise(given.permute(2, 0, 1)[None], 1.0, 0, *weights, *_PLAIN, *rounded)


def _shapes(kind: Kind) -> tuple[tuple[int, ...], ...]:
    """Of a layer's inputs: those of a chunk with its border, or those of a pass and of all sites."""
    _, inputs, kernel = kind
    if kernel > 1:
        return ((SIDE + kernel - 1, SIDE + kernel - 1, inputs),)
    return ((SIDE * SIDE // 2, inputs), (SIDE * SIDE, inputs))


def have_instructions() -> bool:
    """Whether the processor has AVX-512 VNNI. What oneDNN does without it is a hundred times slower, or wrong."""
    probes = (getattr(torch.cpu, f"_is_{kind}_supported", None) for kind in ("avx512", "vnni"))
    return all(probe is not None and probe() for probe in probes)


@lru_cache(maxsize=64)
def exact(kind: Kind) -> bool:
    """Whether such layers are here, fast and exact.

    Of an instruction for sums of two products, in the place of one for four, the sums are cut off at 16 bits. So the
    processor is asked, with the largest sums there are, in the shapes that a chunk has; what is done depends on the
    shape, and not on the numbers.
    """
    if not have_instructions():
        return False
    outputs, inputs, kernel = kind
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (outputs, inputs, kernel, kernel)).astype(np.int8)
    weight[::3], weight[1::3] = 127, -127
    try:
        layer = ByteLayer(weight)
        for shape in layer.shapes:
            x = generator.integers(0, 256, shape, np.uint8)
            x[: len(x) // 2] = 255
            if not torch.equal(layer.sums(x), _plainly(weight, x)):
                return False
    except (AttributeError, RuntimeError):  # torch was built without oneDNN, or for another kind of processor
        return False
    return True


def _plainly(weight: np.ndarray, x: np.ndarray) -> Tensor:
    """What `ByteLayer.sums` should be: of sums below 2^24 fp32 loses nothing."""
    held, given = torch.from_numpy(weight).float(), torch.from_numpy(x).float()
    if x.ndim == 2:
        return torch.mm(given, held[:, :, 0, 0].t()).bfloat16()
    return F.conv2d(given.permute(2, 0, 1)[None], held).bfloat16()
