"""Whether losses and gradients were finite: noted on the device, read when somebody asks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stages.train.step import LOSSES
from store.errors import TrainingError

_ABSENT = -1.0
"""Stands for a loss that an iteration does not compute; a loss is never negative."""


class LossWatch:
    """Remembers the first iteration with a loss or a gradient that is not finite.

    Reading a value makes the host wait until the device has caught up; so nothing is read until
    `demand_finite`, and `failed` keeps the weights as they were in the meantime.

    Args:
        device: Where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self.failed = torch.zeros((), device=device)
        """0-d float32, 1 from the first such iteration on: AdamW's `found_inf`."""
        self._iteration = torch.zeros((), dtype=torch.int64, device=device)
        self._values = torch.zeros(len(LOSSES), device=device)
        self._absent = torch.full((), _ABSENT, device=device)

    def add(
        self, losses: Mapping[str, Tensor], iteration: int, gradients: Sequence[Tensor] = ()
    ) -> None:
        """Note the losses of an iteration, 0-d float32 each, and its gradients.

        Finite losses can have gradients that are not: a division, a root, an overflow on the way.
        """
        values = torch.stack([losses.get(name, self._absent) for name in LOSSES])
        finite = values.isfinite().all()
        if gradients:
            norms = torch._foreach_norm(list(gradients))
            finite = finite & torch.stack(norms).isfinite().all()
        unfinished = self.failed == 0
        self._values = values.where(unfinished, self._values)
        self._iteration = torch.where(unfinished, iteration, self._iteration)
        self.failed = torch.maximum(self.failed, (~finite).float())

    def demand_finite(self, checkpoint: Path) -> None:
        """Wait for the device, and stop if a loss or a gradient was not finite.

        Args:
            checkpoint: The file that is as it was, for the message.

        Raises:
            TrainingError: Since then no weights were updated.
        """
        if not self.failed.item():
            return
        values = zip(LOSSES, self._values.tolist(), strict=True)
        found = ", ".join(f"{name} {value:g}" for name, value in values if value != _ABSENT)
        what = "a gradient" if self._values.isfinite().all() else "a loss"
        raise TrainingError(
            f"iteration {self._iteration.item()}: {what} is not finite ({found}); the weights were "
            "not updated. Lower train.optimizer.lr, or look at the images and labels; "
            f"{checkpoint} is as it was"
        )
