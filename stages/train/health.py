"""Whether the regulariser lives, stage by stage: what `runs/health.csv` shows.

Differs from SSR: the official code logs nothing of its branch. Losses do not show whether fusion
reads its teacher at all; these numbers do.

# B batch, C_i student channels of stage i, N student tokens, M teacher tokens
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages.train.model.guide import Guide
from stages.train.model.regularizer import CrossAttention
from stages.train.networks import Branch, Models

STAGES = 4
MEASURES = ("residual", "entropy", "swap", "gradient")
HEALTH_COLUMNS = (
    "iteration",
    "gradient_student",
    *(f"{measure}_{stage}" for measure in MEASURES for stage in range(STAGES)),
)
"""By stage, from fine to coarse; a stage without teacher stays empty.

residual: norm of what fusion adds over the norm of the student's features; 0 is a dead branch,
much above 1 a dominating one.
entropy: of the attention over the teacher's tokens, over its maximum; 1 is uniform, it looks
nowhere. Empty for a guide, which attends to nothing.
swap: change of the residual, relative to its norm, with the tokens of another image of the batch
in place of the image's own; 0 is a branch that ignores its teacher. Empty for a batch of one.
gradient: norm of the gradient of the stage's fusion; `gradient_student` that of the student.
"""

_QUERIES = 64
"""Student tokens per image that entropy and swap look at."""

Seen = dict[str, list[Tensor]]
"""Column -> its value in each enhanced pass, 0-d tensors on the device."""


@contextmanager
def watched(regularizer: Branch | None) -> Iterator[Seen]:
    """Collect what fusion does in the block; forward passes outside of it cost nothing."""
    seen: Seen = {}
    if regularizer is None:
        yield seen
        return
    if isinstance(regularizer, Guide):
        hooks = [regularizer.register_forward_hook(_guide_observer(seen))]
    else:
        hooks = [
            fusion.register_forward_hook(_observer(stage, seen))
            for stage, fusion in regularizer.fusion.items()
        ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def health_row(seen: Seen, models: Models) -> dict[str, float]:
    """Average what was seen, and add the norms of the gradients; this waits for the device.

    Returns:
        Value by column, without the iteration.
    """
    row = {"gradient_student": _gradient_norm(models.student.parameters())}
    row |= {name: float(torch.stack(values).mean()) for name, values in seen.items()}
    if models.regularizer is not None:
        named = list(models.regularizer.named_parameters())
        for stage in models.regularizer.fusion:
            parts = (f"embed.{stage}.", f"fusion.{stage}.")
            learned = [weight for name, weight in named if name.startswith(parts)]
            row[f"gradient_{stage}"] = _gradient_norm(learned)
    return row


def _observer(stage: str, seen: Seen) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    @torch.no_grad()
    def observe(fusion: nn.Module, tokens: tuple[Tensor, ...], read: Tensor) -> None:
        assert isinstance(fusion, CrossAttention)
        student, teacher = tokens  # (B, N, C_i), (B, M, C_i)
        every = max(1, student.shape[1] // _QUERIES)
        some, read_by_some = student[:, ::every], read[:, ::every].float()
        values = {
            "residual": _norm(read) / _norm(student),
            "entropy": _entropy(fusion, some, teacher),
        }
        if len(student) > 1:
            of_another = fusion.forward(some, teacher.roll(1, dims=0)).float()  # without this hook
            values["swap"] = _norm(of_another - read_by_some) / _norm(read_by_some)
        for name, value in values.items():
            seen.setdefault(f"{name}_{stage}", []).append(value)

    return observe


def _guide_observer(seen: Seen) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
    @torch.no_grad()
    def observe(guide: nn.Module, maps: tuple[Any, ...], enhanced: Any) -> None:  # noqa: ANN401
        assert isinstance(guide, Guide)
        student, teacher = maps
        for stage, level in enumerate(guide.levels):
            if level is None:
                continue
            map_ = student[stage]  # (B, C_i, H_i, W_i), before some are dropped
            added = guide.fusion[str(stage)](teacher[level], tuple(map_.shape[2:]))
            values = {"residual": _norm(added) / _norm(map_)}
            if len(added) > 1:
                values["swap"] = _norm(added.roll(1, dims=0) - added) / _norm(added)
            for name, value in values.items():
                seen.setdefault(f"{name}_{stage}", []).append(value)

    return observe


def _entropy(fusion: CrossAttention, student: Tensor, teacher: Tensor) -> Tensor:
    query, key, _ = fusion.project(student, teacher)  # (B, heads, N or M, C_i / heads)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(-2, -1) / math.sqrt(query.shape[-1])
    probability = scores.softmax(dim=-1)  # (B, heads, N, M)
    entropy: Tensor = torch.special.entr(probability).sum(dim=-1).mean()
    return entropy / math.log(max(2, teacher.shape[1]))


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values.float())
    return norm


def _gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    norms = [_norm(parameter.grad) for parameter in parameters if parameter.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
