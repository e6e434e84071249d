"""Which device computes. The only place that asks torch for one."""

from __future__ import annotations

import torch

from inrwsi.errors import BackendUnavailable


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu` or `cuda`.

    Raises:
        BackendUnavailable: CUDA is asked for and torch has none, or the name is another.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BackendUnavailable(f"--device is {name!r}; it should be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("--device cuda is asked for, but torch sees no CUDA device; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
