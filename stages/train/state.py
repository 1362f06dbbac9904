"""All that changes while training: the optimiser, and checkpoints that resume a run bit for bit.

A checkpoint holds student, EMA model, regulariser, optimiser, curves and the iteration; never the
teacher or the ImageNet model. Random state needs no place: every draw derives from the seed and
the iteration.
"""

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
from stages.weight_files import load_parts, save_parts

FORMAT = 1


def build_optimizer(
    student: Student,
    regularizer: nn.Module | None,
    config: OptimizerConfig,
    distiller: nn.Module | None = None,
) -> torch.optim.AdamW:
    """Build AdamW with DAFormer's parameter groups, at the base rate.

    Groups are those of the official rules: the head trains faster and decays wholly, batch norms
    and biases included, but for norms and embeddings of a `QueryHead`; norms of the backbone and
    Rein's tokens do not decay; all else is at the base. A head of the regulariser learns as the
    student's does, and so does what distillation adds.
    """
    groups: list[dict[str, Any]] = []

    def add(name: str, params: list[nn.Parameter], factor: float, decay: float) -> None:
        more = {"lr": config.lr * factor, "lr_factor": factor, "weight_decay": decay}
        groups.append({"name": name, "params": params, **more})

    decay, head_factor = config.weight_decay, config.head_lr_factor
    tokens = ("factors.", "scale")  # Rein decays neither
    norms = [m for m in student.backbone.modules() if isinstance(m, nn.LayerNorm | _BatchNorm)]
    undecayed = {id(weight) for norm in norms for weight in norm.parameters()}
    if isinstance(student.backbone, ReinBackbone) and student.backbone.rein is not None:
        own = student.backbone.rein.named_parameters()
        undecayed |= {id(weight) for name, weight in own if name.startswith(tokens)}
    backbone = list(student.backbone.parameters())
    add("backbone", [weight for weight in backbone if id(weight) not in undecayed], 1.0, decay)
    add("backbone norms", [weight for weight in backbone if id(weight) in undecayed], 1.0, 0.0)
    exempt = UNDECAYED if isinstance(student.head, QueryHead) else ()
    head: list[nn.Parameter] = []
    head_norms: list[nn.Parameter] = []
    for name, weight in student.head.named_parameters():
        (head_norms if any(part in name for part in exempt) else head).append(weight)
    if student.attention is not None:  # official HRDA goes by the name of its outer head
        head += student.attention.parameters()
    add("head", head, head_factor, decay)
    if head_norms:
        add("head norms", head_norms, head_factor, 0.0)
    if student.semantic is not None:
        add("semantic", list(student.semantic.parameters()), 1.0, decay)
    if regularizer is not None:
        named = list(regularizer.named_parameters())
        its_head = [weight for name, weight in named if name.startswith("head.")]
        refining = [w for n, w in named if n.removeprefix("refiner.").startswith(tokens)]
        others = {id(weight) for weight in (*its_head, *refining)}
        fusion = [weight for _, weight in named if id(weight) not in others]
        add("regularizer", fusion, config.regularizer_lr_factor, decay)
        if its_head:
            add("its head", its_head, head_factor, decay)
        if refining:
            add("its tokens", refining, config.regularizer_lr_factor, 0.0)
    if distiller is not None:
        add("distiller", list(distiller.parameters()), head_factor, decay)
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


@dataclass(frozen=True)
class TrainingState:
    """Networks, optimiser and curves of a run."""

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
            "distiller": models.distiller,
            "optimizer": self.optimizer,
            "curves": self.curves,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path, *, iteration: int, fingerprint: str) -> None:
        """Write the state after `iteration` updates; a kill leaves the old file or the new one.

        The fingerprint is the hash of all that determines the run; see `load`.
        """
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
