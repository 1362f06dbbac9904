"""Whether the regulariser lives, stage by stage: what `runs/health.csv` shows.

Differs from SSR: the official code logs nothing of its branch. Losses do not show whether fusion
reads its teacher at all; these numbers do.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from stages.train.networks import Models
from stages.train.regularizers.branch import Branch, Seen, norm

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
nowhere. Empty for a branch without attention.
swap: change of the residual, relative to its norm, with the tokens of another image of the batch
in place of the image's own; 0 is a branch that ignores its teacher. Empty for a batch of one.
gradient: norm of the gradient of the stage's fusion; `gradient_student` that of the student.
"""


@contextmanager
def watched(regularizer: Branch | None) -> Iterator[Seen]:
    """Collect what fusion does in the block; forward passes outside of it cost nothing."""
    seen: Seen = {}
    if regularizer is None:
        yield seen
        return
    hooks = regularizer.observe(seen)
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


def _gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    norms = [norm(parameter.grad) for parameter in parameters if parameter.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
