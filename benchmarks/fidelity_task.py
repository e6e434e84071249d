"""`--task`: does a model that somebody uses say the same of the decoded picture as of the original?

A model is one file that holds its own weights and preprocessing. It is given (n, 3, side, side) float32 RGB in [0, 1]
and gives a float tensor with n first (of several outputs, the first is taken): (n, classes) of a classifier,
(n, classes, rows, columns) of a segmenter, (n, features) of an encoder.

- TorchScript (`.pt`, `.pth`, `.ts`), by `torch.jit.load`. It runs what TorchScript can say; Python objects are not
  unpickled from it. It is still a program: run those you trust.
- ONNX (`.onnx`), by onnxruntime on the CPU, from the extra `inrwsi[onnx]`. A side fixed in the model is kept to.

Metrics:
    task_agreement: share of patches (of a segmenter: of its output pixels) whose largest class is the same; absent for
        a model with a single output channel. Of an encoder it is of little meaning.
    task_correlation: Pearson's r of all outputs; absent where either picture's outputs are all alike.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inrwsi.errors import BackendUnavailable, UsageError

from .quality import check_pair

SIDE_PX = 256
TORCHSCRIPT_SUFFIXES = (".pt", ".pth", ".ts")

_BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """What a model said of both pictures of one or more regions, as sums: `a + b` is both together.

    Attributes:
        same, choices: outputs whose largest class is the same, and how many there are (0 of a single channel).
        values: number of output values.
        sum_a, sum_b, square_a, square_b, product: of the outputs on the original (a) and on the decoded picture (b).
    """

    same: int
    choices: int
    values: int
    sum_a: float
    sum_b: float
    square_a: float
    square_b: float
    product: float

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.same + other.same,
            self.choices + other.choices,
            self.values + other.values,
            self.sum_a + other.sum_a,
            self.sum_b + other.sum_b,
            self.square_a + other.square_a,
            self.square_b + other.square_b,
            self.product + other.product,
        )

    def metrics(self) -> dict[str, float]:
        """Those of the module's list that the outputs give."""
        found = {"task_agreement": self.same / self.choices} if self.choices else {}
        spread_a = self.values * self.square_a - self.sum_a**2
        spread_b = self.values * self.square_b - self.sum_b**2
        # What is left of a difference of nearly equal sums is rounding.
        if spread_a > 1e-9 * self.sum_a**2 and spread_b > 1e-9 * self.sum_b**2:
            covariance = self.values * self.product - self.sum_a * self.sum_b
            found["task_correlation"] = covariance / math.sqrt(spread_a * spread_b)
        return found


@dataclass(frozen=True, eq=False)
class Task:
    """A model as a function.

    Attributes:
        name: of its file.
        side_px: side of the patches that it is given.
        run: (n, 3, side_px, side_px) float32 -> (n, ...) float array.
    """

    name: str
    side_px: int
    run: Callable[[np.ndarray], np.ndarray]

    def agreement(self, original: np.ndarray, decoded: np.ndarray) -> Agreement:
        """Run the model on whole patches of two (h, w, 3) uint8 pictures, from the upper left corner.

        UsageError if the pictures do not fit each other or hold no patch, or the outputs are not as said above.
        """
        check_pair(original, decoded)
        if min(original.shape[:2]) < self.side_px:
            h, w = original.shape[:2]
            raise UsageError(f"{self.name}: needs {self.side_px}x{self.side_px} pixels; the picture has {w}x{h}")
        pairs = zip(_batches(original, self.side_px), _batches(decoded, self.side_px), strict=True)
        found = [_compare(self._outputs(a), self._outputs(b)) for a, b in pairs]
        return sum(found[1:], start=found[0])

    def _outputs(self, patches: np.ndarray) -> np.ndarray:
        outputs = self.run(patches)
        if outputs.ndim < 2 or len(outputs) != len(patches) or not np.issubdtype(outputs.dtype, np.floating):
            raise UsageError(
                f"{self.name}: gives {outputs.dtype} {outputs.shape} for {len(patches)} patches; "
                f"it should be floats, ({len(patches)}, classes, ...)"
            )
        if not np.isfinite(outputs).all():
            raise UsageError(f"{self.name}: gives values that are not finite")
        return outputs


def load_task(path: Path) -> Task:
    """Open a model by its suffix.

    Raises:
        UsageError: no such file, an unknown suffix, or not a model.
        BackendUnavailable: ONNX without onnxruntime.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix.lower() in TORCHSCRIPT_SUFFIXES:
        return _torchscript(path)
    if path.suffix.lower() == ".onnx":
        return _onnx(path)
    raise UsageError(f"{path}: a task is TorchScript ({', '.join(TORCHSCRIPT_SUFFIXES)}) or .onnx")


def _torchscript(path: Path) -> Task:
    import torch

    with warnings.catch_warnings():
        # It is still how such models are handed around.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit.*")
        try:
            model = torch.jit.load(str(path), map_location="cpu").eval()
        except RuntimeError as error:
            raise UsageError(f"{path}: is not a TorchScript model: {_first_line(error)}") from error

    def run(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            try:
                found = model(torch.from_numpy(patches))
            except RuntimeError as error:
                raise UsageError(f"{path}: failed on patches {patches.shape}: {_first_line(error)}") from error
        first = found[0] if isinstance(found, (tuple, list)) and found else found
        if not isinstance(first, torch.Tensor):
            raise UsageError(f"{path}: gives {type(found).__name__}, should be a tensor or a tuple of them")
        return first.numpy()

    return Task(str(path), SIDE_PX, run)


def _onnx(path: Path) -> Task:
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendUnavailable(f"{path}: needs onnxruntime; install inrwsi[onnx]") from error
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no public base class
        raise UsageError(f"{path}: is not an ONNX model that runs here: {_first_line(error)}") from error
    inputs = session.get_inputs()
    shape: list[Any] = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) != 4:
        raise UsageError(f"{path}: should have one input, (n, 3, side, side); it has {[i.shape for i in inputs]}")
    side_px = shape[2] if isinstance(shape[2], int) else SIDE_PX
    one_by_one = isinstance(shape[0], int)

    def run(patches: np.ndarray) -> np.ndarray:
        groups = np.split(patches, len(patches)) if one_by_one else [patches]
        try:
            found = [np.asarray(session.run(None, {inputs[0].name: group})[0]) for group in groups]
        except Exception as error:
            raise UsageError(f"{path}: failed on patches {groups[0].shape}: {_first_line(error)}") from error
        return np.concatenate(found)

    return Task(str(path), side_px, run)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _batches(rgb: np.ndarray, side_px: int) -> Iterator[np.ndarray]:
    """Whole patches of (h, w, 3) uint8, row by row: (up to 8, 3, side_px, side_px) float32 in [0, 1]."""
    corners = [
        (y, x)
        for y in range(0, rgb.shape[0] - side_px + 1, side_px)
        for x in range(0, rgb.shape[1] - side_px + 1, side_px)
    ]
    for first in range(0, len(corners), _BATCH):
        patches = [rgb[y : y + side_px, x : x + side_px] for y, x in corners[first : first + _BATCH]]
        yield np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2), dtype=np.float32) / 255


def _compare(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Two arrays of outputs of one shape, (n, classes, ...), in sums."""
    several = a.shape[1] > 1
    same = a.argmax(axis=1) == b.argmax(axis=1)
    p, q = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return Agreement(
        same=int(np.count_nonzero(same)) if several else 0,
        choices=same.size if several else 0,
        values=p.size,
        sum_a=float(p.sum()),
        sum_b=float(q.sum()),
        square_a=float(p @ p),
        square_b=float(q @ q),
        product=float(p @ q),
    )
