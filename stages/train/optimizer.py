"""AdamW with DAFormer's parameter groups and learning-rate schedule."""

import torch
from torch import nn

from stages.student.student import Student
from stages.train.config import OptimizerConfig


def build_optimizer(
    student: Student, regularizer: nn.Module | None, config: OptimizerConfig
) -> torch.optim.AdamW:
    """Build AdamW over the student and, where there is one, the regulariser.

    Groups follow the official rules by name: the head trains faster and decays wholly, batch
    norms and biases included; norms of the backbone do not decay; all else is at the base.
    Each group carries its `name` and its `lr_factor` for `set_learning_rate`.

    Args:
        student: Backbone and head.
        regularizer: The network that reads the teacher; a head of its own learns as the student's
            does. None for plain self-training.
        config: Rates, decay and betas.

    Returns:
        The optimiser, at the base rate (no warm-up applied yet).
    """
    norms: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in student.backbone.named_parameters():
        (norms if "norm" in name else rest).append(parameter)
    head = list(student.head.parameters())
    decay = config.weight_decay
    groups = [
        _group("backbone", rest, config, 1.0, decay),
        _group("backbone norms", norms, config, 1.0, 0.0),
        _group("head", head, config, config.head_lr_factor, decay),
    ]
    if regularizer is not None:
        named = dict(regularizer.named_parameters())
        own_head = [weight for name, weight in named.items() if name.startswith("head.")]
        fusion = [weight for name, weight in named.items() if not name.startswith("head.")]
        groups.append(_group("regularizer", fusion, config, config.regularizer_lr_factor, decay))
        if own_head:
            groups.append(_group("its head", own_head, config, config.head_lr_factor, decay))
    # Fused: one pass over the weights, and `found_inf` skips an update without asking the device.
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=decay, fused=True
    )


def learning_rate(iteration: int, config: OptimizerConfig, iterations: int) -> float:
    """Base learning rate during this 0-based iteration.

    Polynomial decay to zero at `iterations`; in the warm-up it is multiplied (not replaced) by a
    factor that grows linearly from `warmup_ratio` to 1, as in mmcv's `poly` policy.
    """
    decayed: float = config.lr * (1 - iteration / iterations) ** config.power
    if iteration >= config.warmup_iterations:
        return decayed
    missing = (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio)
    return decayed * (1 - missing)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group `lr` times its `lr_factor`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def _group(
    name: str, params: list[nn.Parameter], config: OptimizerConfig, factor: float, decay: float
) -> dict[str, object]:
    return {
        "name": name,
        "params": params,
        "lr": config.lr * factor,
        "lr_factor": factor,
        "weight_decay": decay,
    }
