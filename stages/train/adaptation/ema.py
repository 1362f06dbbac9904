"""The EMA model: a slowly moving copy of the student that makes pseudo-labels."""

import torch
from torch import Tensor, nn


def ema_alpha(iteration: int, alpha_max: float) -> float:
    """Share of the old EMA weights at this 0-based iteration: min(1 - 1/(t+1), alpha_max)."""
    return min(1 - 1 / (iteration + 1), alpha_max)


@torch.no_grad()
def update_ema(ema: nn.Module, student: nn.Module, iteration: int, alpha_max: float) -> None:
    """Move the parameters of `ema` towards those of `student`, in place.

    At iteration 0 alpha is 0: the student is copied. Buffers are never touched: the EMA model
    keeps its own batch-norm statistics (parity case `ema`).

    Args:
        ema: The EMA model, of the student's architecture.
        student: The network in training.
        iteration: 0-based.
        alpha_max: Decay that the ramp 1 - 1/(t+1) ends at, 0.999 in the paper.
    """
    old: list[Tensor] = list(ema.parameters())
    new: list[Tensor] = list(student.parameters())
    # One kernel for many tensors, and one pass over them instead of two.
    torch._foreach_lerp_(old, new, weight=1 - ema_alpha(iteration, alpha_max))
