"""Gradients of a batch. On a CPU a crop a thread: the same sums, whatever the number of threads.

A convolution spread over threads adds up its gradient in an order that depends on their number. There each crop is
computed on one thread alone, with noise of its own, and the crops' gradients are added in the crops' order. A GPU takes
all crops at once: one of them gives it too little to do between the launches of its some thousand kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

Work = Callable[[slice, torch.Generator], tuple[Tensor, Tensor]]
"""(which crops of the batch, their noise) -> their losses (n,), and figures to be told of (n, any)."""


class PerCrop:
    """Computes batches for these parameters.

    Args:
        device: where; on a GPU all crops are one work.
        threads: at most so many; as many as torch may use where it is None.

    Attributes:
        at_once: crops that are one work; None stands for all of a batch.
    """

    def __init__(self, device: torch.device, threads: int | None = None) -> None:
        self._device = device
        self.at_once = 1 if device.type == "cpu" else None
        count = (threads or torch.get_num_threads()) if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(count, "fit", initializer=one_thread)

    def gradients(self, params: Iterable[nn.Parameter], work: Work, seeds: list[int]) -> list[list[float]]:
        """Put the mean of the crops' gradients into `.grad` of the parameters that need one.

        Args:
            seeds: of each crop's noise; where all crops are one work, the first is that of all.

        Returns:
            The figures of each crop.
        """
        params = list(params)
        for p in params:  # also of those that are held fast: an old gradient must not be taken again
            p.grad = None
        trained = [p for p in params if p.requires_grad]

        def one(crops: slice) -> tuple[tuple[Tensor | None, ...], list[list[float]]]:
            noise = torch.Generator(self._device).manual_seed(seeds[crops.start])
            # A cast that the threads shared would be one node of all their graphs.
            with torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False):
                losses, figures = work(crops, noise)
            return torch.autograd.grad(losses.sum() / len(seeds), trained, allow_unused=True), figures.tolist()

        count = self.at_once or len(seeds)
        found = []
        for grads, figures in self._pool.map(one, [slice(n, n + count) for n in range(0, len(seeds), count)]):
            for p, grad in zip(trained, grads, strict=True):
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad.add_(grad)
            found += figures
        return found

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown()


def adam_state(p: nn.Parameter, held: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """What Adam keeps of a parameter, from `step`, `exp_avg` and `exp_avg_sq` as they were saved.

    In the parameter's own memory order, channels last: the fused step goes through both in one pass.
    """
    moments = {k: torch.empty_like(p).detach().copy_(torch.from_numpy(held[k])) for k in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.tensor(float(held["step"][0]), device=p.device), **moments}


def one_thread() -> None:
    """Of a pool's threads: each computes on itself alone."""
    torch.get_num_threads()  # a thread that has not asked yet takes over a number that is set elsewhere later
    torch.set_num_threads(1)
