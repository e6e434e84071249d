"""Optimisers that a fit can take: Adam, and SOAP, which is Adam in the eigenbasis of Shampoo's preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

REFRESH_STEPS = 10  # f of the paper: between two power iterations
MOST_SIDE = 1024  # of a matrix whose side gets a basis
BETAS = (0.9, 0.99)  # of Adam
SOAP_BETAS = (0.95, 0.95)  # as of the experiments of the paper


class Soap(torch.optim.Optimizer):
    """SOAP (Vyas et al. 2024, arXiv 2409.11321, Algorithm 3), with the bias corrections of Adam.

    With the gradient G (m, n) of a weight W, the bases QL (m, m) and QR (n, n), and H' = QL^T H QR of any H, a step is

        M <- b1 M + (1 - b1) G,  V <- b2 V + (1 - b2) G'^2,  W <- W - rate QL (M' / (sqrt(V) + eps)) QR^T
        L <- b2 L + (1 - b2) G G^T,  R <- b2 R + (1 - b2) G^T G

    and every `REFRESH_STEPS` steps QL <- qr(L QL), QR <- qr(R QR) (Algorithm 4). The first gradient gives L and R,
    whose eigenvectors are the first bases, and no step: in these it is diagonal, and Adam would blow up the rounding
    errors beside the diagonal.

    Kernels count as (outputs, inputs k k). A side above `MOST_SIDE` gets no basis; parameters that are no matrices, and
    those of a group with `matrices` False, none at all, which leaves Adam.

    Args:
        groups: parameters, or groups as of any optimiser, which may also hold `matrices`.
        lr, betas, eps: as of Adam.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = SOAP_BETAS,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "matrices": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step, of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group)
        return loss

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        grad, state = _matrix(parameter.grad), self.state[parameter]
        (b1, b2), eps = group["betas"], group["eps"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["mean"], state["square"] = torch.zeros_like(grad), torch.zeros_like(grad)
            if group["matrices"] and parameter.dim() > 1 and min(grad.shape) <= MOST_SIDE:
                for side, product in _products(grad).items():
                    state[side] = product
                    state[f"{side}_basis"] = torch.linalg.eigh(product).eigenvectors.contiguous()
                return
        state["step"] += 1
        count = int(state["step"])
        left, right = state.get("left_basis"), state.get("right_basis")
        state["mean"].lerp_(grad, 1 - b1)
        state["square"].mul_(b2).add_(_rotated(grad, left, right).square(), alpha=1 - b2)
        mean = _rotated(state["mean"], left, right) / (1 - b1**count)
        moved = mean / ((state["square"] / (1 - b2**count)).sqrt() + eps)
        back = _rotated(moved, None if left is None else left.mT, None if right is None else right.mT)
        parameter.sub_(back.view_as(parameter), alpha=group["lr"])
        if left is None and right is None:
            return
        for side, product in _products(grad).items():
            state[side].lerp_(product, 1 - b2)
            if count % REFRESH_STEPS == 0:
                # Contiguous, as it comes back from a checkpoint: products of another layout round in another way.
                state[f"{side}_basis"] = torch.linalg.qr(state[side] @ state[f"{side}_basis"]).Q.contiguous()


def _matrix(gradient: Tensor) -> Tensor:
    """(outputs, all others), or (n, 1)."""
    return gradient.reshape(gradient.shape[0], -1) if gradient.dim() else gradient.reshape(1, 1)


def _products(gradient: Tensor) -> dict[str, Tensor]:
    """G G^T and G^T G, of the sides that get a basis."""
    sides = {"left": gradient, "right": gradient.mT}
    return {side: g @ g.mT for side, g in sides.items() if g.shape[0] <= MOST_SIDE}


def _rotated(matrix: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """left^T matrix right; None stands for the identity."""
    if left is not None:
        matrix = left.mT @ matrix
    return matrix if right is None else matrix @ right


@dataclass(frozen=True)
class Optimiser:
    """An optimiser by its name, one of `options.OPTIMISERS`.

    Attributes:
        rate: what it multiplies the learning rates by that models and schedules name, which are Adam's.
    """

    name: str = "adam"
    rate: float = 1.0

    def of(self, groups: Iterable[Any], eps: float = 1e-8) -> torch.optim.Optimizer:
        """For these groups; each step of the fit sets their learning rates."""
        if self.name == "soap":
            return Soap(groups, eps=eps)
        return torch.optim.Adam(groups, betas=BETAS, eps=eps)


ADAM = Optimiser()
NAMED = {"adam": ADAM, "soap": Optimiser("soap", rate=1.0)}
