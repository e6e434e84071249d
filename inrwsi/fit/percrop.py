"""Gradients of a batch, a crop a thread: the same sums, whatever the number of threads.

A convolution spread over threads adds up its gradient in an order that depends on their number. Here each crop is
computed on one thread alone, with noise of its own, and the crops' gradients are added in the crops' order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn

Work = Callable[[int, torch.Generator], tuple[Tensor, tuple[float, ...]]]
"""(crop's number in the batch, its noise) -> its loss, and figures to be told of."""


class PerCrop:
    """Computes batches for these parameters.

    Args:
        device: where; on a GPU one thread asks for all.
        threads: at most so many; as many as torch may use where it is None.
    """

    def __init__(self, device: torch.device, threads: int | None = None) -> None:
        self._device = device
        count = (threads or torch.get_num_threads()) if device.type == "cpu" else 1
        self._pool = ThreadPoolExecutor(count, "fit", initializer=_one_thread)

    def gradients(self, params: Iterable[nn.Parameter], work: Work, seeds: list[int]) -> list[tuple[float, ...]]:
        """Put the mean of the crops' gradients into `.grad` of the parameters that need one.

        Returns:
            The figures of each crop.
        """
        params = list(params)
        for p in params:  # also of those that are held fast: an old gradient must not be taken again
            p.grad = None
        trained = [p for p in params if p.requires_grad]

        def one(number: int) -> tuple[tuple[Tensor | None, ...], tuple[float, ...]]:
            noise = torch.Generator(self._device).manual_seed(seeds[number])
            # A cast that the threads shared would be one node of all their graphs.
            with torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False):
                loss, figures = work(number, noise)
            return torch.autograd.grad(loss / len(seeds), trained, allow_unused=True), figures

        found = []
        for grads, figures in self._pool.map(one, range(len(seeds))):
            for p, grad in zip(trained, grads, strict=True):
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad.add_(grad)
            found.append(figures)
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


def _one_thread() -> None:
    torch.get_num_threads()  # a thread that has not asked yet takes over a number that is set elsewhere later
    torch.set_num_threads(1)
