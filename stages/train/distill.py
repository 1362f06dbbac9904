"""Distillation: before the task, the student's stages learn the features that are stored.

A store makes the teacher free, and so the target takes part as the source does; no label is read.
First and not beside the task, as the two losses conflict (GKD, arXiv 2603.02554, which runs its
teacher and sees no target). The student sees crops with jitter and blur; features are of clean
ones.

# B batch
"""

import numpy as np
from torch import Tensor

from stages.train.adaptation.augment import StrongDraw, augment, draw_strong
from stages.train.config import TrainConfig
from stages.train.crops import DISTILL_STREAM, Batch
from stages.train.models import Models
from stages.train.regularizers.branch import Seen
from stages.train.step import StepResult, accumulate, part_of

DistillDraws = dict[str, list[StrongDraw]]
"""Domain -> augmentation of each of its images; no domain where nothing is drawn."""


def draw_distilled(config: TrainConfig, iteration: int, rows: slice) -> DistillDraws:
    """Draw the augmentation of a step, counted from the first of all, for some of its images.

    It is that of `self_training`; without it images are not augmented.
    """
    if config.distill is None or config.self_training is None:
        return {}
    rng = np.random.default_rng((config.seed, DISTILL_STREAM, iteration))
    return {
        domain: draw_strong(rng, config.batch_size, config.self_training, per_image=True)[rows]
        for domain in ("source", "target")
    }


def distill_step(
    models: Models, batch: Batch, draws: DistillDraws, config: TrainConfig
) -> StepResult:
    """Add the gradients of a step of distillation to the student's backbone and the distiller.

    Batch norms and noise are as in training; domains are seen one after the other, as there.

    Returns:
        Losses `distill_source` and `distill_target`, and the shares of variance explained.
    """
    models.half.refresh()
    seen: Seen = {}
    losses = {
        **_learn("source", 1.0, models, batch, draws, config, seen),
        **_learn("target", 1.0, models, batch, draws, config, seen),
    }
    return StepResult(losses, None, None, seen)


def keep_distilling(
    result: StepResult, models: Models, batch: Batch, draws: DistillDraws, config: TrainConfig
) -> StepResult:
    """Add to a step of the task what `distill.keep` asks for, on its target images alone."""
    if config.distill is None or not config.distill.keep:
        return result
    seen: Seen = {}
    losses = _learn("target", config.distill.keep, models, batch, draws, config, seen)
    return result._replace(losses=result.losses | losses, seen=result.seen | seen)


def freeze_backbone(models: Models, config: TrainConfig, iteration: int) -> None:
    """Drop the backbone's gradients in the first `distill.freeze` iterations of the task.

    Averages of batch norms, which are no weights, go on to follow the images.
    """
    if config.distill is not None and iteration < config.distill.freeze:
        for weight in models.student.backbone.parameters():
            weight.grad = None


def _learn(
    domain: str,
    factor: float,
    models: Models,
    batch: Batch,
    draws: DistillDraws,
    config: TrainConfig,
    seen: Seen,
) -> dict[str, Tensor]:
    """Go forward and back on the images of a domain; note the explained shares in `seen`."""
    student, distiller = models.student, models.distiller
    assert distiller is not None
    images, teacher = batch.source_image, batch.source_features
    if domain == "target":
        images, teacher = batch.target_image, batch.target_features
    if domain in draws:
        images = augment(images, draws[domain])

    def losses_of(part: slice) -> dict[str, Tensor]:
        image = images[part]
        loss, explained = distiller(student.features(image), part_of(teacher, part))
        for name, value in explained.items():
            seen.setdefault(name, []).append(value)
        return {f"distill_{domain}": factor * len(image) / len(batch) * loss}

    return accumulate(losses_of, models, batch, config)
