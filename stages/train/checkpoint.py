"""Checkpoints that resume a run bit for bit, and only the run that wrote them.

A checkpoint holds student, EMA model, regulariser, optimiser, curves and the iteration; never the
teacher or the ImageNet model. Random state needs no place: every draw derives from the seed and
the iteration.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.train.models import Models
from stages.train.monitor import Curves
from stages.weight_files import check_checksums, reading
from store.atomic import TEMPORARY_SUFFIX, replacing
from store.errors import CheckpointError

FORMAT = 1


@dataclass(frozen=True)
class TrainingState:
    """All that changes while training."""

    models: Models
    optimizer: torch.optim.Optimizer
    curves: Curves

    def _parts(self) -> dict[str, Any]:
        models = self.models
        parts = {
            "student": models.student,
            "ema": models.ema,
            "regularizer": models.regularizer,
            "ema_branch": models.ema_branch,
            "optimizer": self.optimizer,
            "curves": self.curves,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path, *, iteration: int, fingerprint: str) -> None:
        """Write the state after `iteration` updates; a kill leaves the old file or the new one.

        Args:
            path: The checkpoint file.
            iteration: Number of finished iterations.
            fingerprint: Hash of all that determines the run; see `load`.
        """
        state = {name: part.state_dict() for name, part in self._parts().items()}
        header = {"format": FORMAT, "fingerprint": fingerprint, "iteration": iteration}
        with replacing(path, path.name + TEMPORARY_SUFFIX) as file:
            try:
                torch.save({**header, **state}, file)
            except RuntimeError as error:  # PyTorch's own, which hides what the disk said
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load(self, path: Path, *, fingerprint: str, device: torch.device) -> int | None:
        """Take over a checkpoint of the same run.

        Args:
            path: The checkpoint file; it may be absent.
            fingerprint: Of this run.
            device: Where the networks are.

        Returns:
            Number of finished iterations, or None where there is nothing to resume.

        Raises:
            CheckpointError: If the file is of another run, damaged, or cannot be read now.
        """
        if not path.is_file():
            return None
        with reading(path, "is a damaged checkpoint", "delete it to train anew"):
            check_checksums(path)
            saved = torch.load(path, map_location=device, weights_only=True)
            if saved["format"] != FORMAT or saved["fingerprint"] != fingerprint:
                raise CheckpointError(
                    f"{path} is of another run; give another --out, or --fresh to move it aside"
                )
            for name, part in self._parts().items():
                part.load_state_dict(saved[name])
            return int(saved["iteration"])
