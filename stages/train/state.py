"""All that changes while training: the optimiser, and checkpoints that resume a run bit for bit.

A checkpoint holds student, EMA model, regulariser, optimiser, curves and the iteration; never the
teacher or the ImageNet model. Random state needs no place: every draw derives from the seed and
the iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.student.query_head import UNDECAYED, QueryHead
from stages.student.rein_vfm import ReinBackbone
from stages.student.student import Student
from stages.train.config import OptimizerConfig
from stages.train.models import Models
from stages.train.monitor import Curves
from stages.train.regularizers.branch import Branch
from stages.weight_files import load_parts, save_parts

FORMAT = 1


def build_optimizer(
    student: Student,
    regularizer: Branch | None,
    config: OptimizerConfig,
    distiller: nn.Module | None = None,
) -> torch.optim.AdamW:
    """Build AdamW with DAFormer's parameter groups, at the base rate.

    Groups are those of the official rules: the head trains faster and decays wholly, batch norms
    and biases included, but for norms and embeddings of a `QueryHead`; norms of the backbone and
    Rein's tokens do not decay; all else is at the base. A head of the regulariser learns as the
    student's does, and so does what distillation adds.
    """
    rein = student.backbone.rein if isinstance(student.backbone, ReinBackbone) else None
    refiner = None if regularizer is None else regularizer.refiner
    norms = [m for m in student.backbone.modules() if isinstance(m, nn.LayerNorm | _BatchNorm)]
    undecayed = {weight for norm in norms for weight in norm.parameters()}
    for tokens in filter(None, (rein, refiner)):  # Rein decays neither
        own = tokens.named_parameters()
        undecayed |= {weight for name, weight in own if name.startswith(("factors.", "scale"))}
    if isinstance(student.head, QueryHead):
        own = student.head.named_parameters()
        undecayed |= {weight for name, weight in own if any(part in name for part in UNDECAYED)}
    groups: list[dict[str, Any]] = []

    def add(name: str, weights: Sequence[nn.Parameter], factor: float) -> None:
        for is_exempt in (False, True):
            group = {
                "name": f"{name} norms" if is_exempt else name,
                "params": [weight for weight in weights if (weight in undecayed) == is_exempt],
                "lr": config.lr * factor,
                "lr_factor": factor,
                "weight_decay": 0.0 if is_exempt else config.weight_decay,
            }
            if group["params"]:
                groups.append(group)

    add("backbone", [*student.backbone.parameters()], 1.0)
    # official HRDA's attention goes by the name of its outer head
    head = [part for part in (student.head, student.attention) if part is not None]
    add("head", [w for part in head for w in part.parameters()], config.head_lr_factor)
    if student.semantic is not None:
        add("semantic", [*student.semantic.parameters()], 1.0)
    if regularizer is not None:
        its_head = {w for n, w in regularizer.named_parameters() if n.startswith("head.")}
        others = [weight for weight in regularizer.parameters() if weight not in its_head]
        add("regularizer", others, config.regularizer_lr_factor)
        add(
            "its head",
            [w for w in regularizer.parameters() if w in its_head],
            config.head_lr_factor,
        )
    if distiller is not None:
        add("distiller", [*distiller.parameters()], config.head_lr_factor)
    # Fused: one pass over the weights, and `found_inf` skips an update without asking the device.
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
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


@dataclass(frozen=True)
class TrainingState:
    """Networks, optimiser and curves of a run."""

    models: Models
    optimizer: torch.optim.Optimizer
    curves: Curves

    def _parts(self) -> dict[str, Any]:
        names = ("student", "ema", "regularizer", "ema_branch", "distiller")
        networks = {name: getattr(self.models, name) for name in names}
        parts = {**networks, "optimizer": self.optimizer, "curves": self.curves}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path, *, iteration: int, fingerprint: str) -> None:
        """Write the state after `iteration` updates; a kill leaves the old file or the new one."""
        header = {"format": FORMAT, "fingerprint": fingerprint, "iteration": iteration}
        save_parts(path, self._parts(), header)

    def load(self, path: Path, *, fingerprint: str, device: torch.device) -> int | None:
        """Take over a checkpoint of the same run, where there is one.

        Returns:
            Number of finished iterations, or None where there is nothing to resume.

        Raises:
            CheckpointError: If the file is of another run, damaged, or cannot be read now.
        """
        header = {"format": FORMAT, "fingerprint": fingerprint}
        cure = "give another --out, or --fresh to move it aside"
        saved = load_parts(path, self._parts(), header=header, device=device, cure=cure)
        return None if saved is None else int(saved["iteration"])
