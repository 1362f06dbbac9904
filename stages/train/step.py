"""One training step: its random choices, and all passes of SSR in the order of its code.

    objective = clean + enhanced_source + feature_distance + mix + enhanced_mix + masked

Gradients are added up, the caller updates. B batch, C channels, H W pixels, h w tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.student.mit import COARSEST_PX, stage_features
from stages.train.adaptation.augment import StrongDraw, augment, draw_strong
from stages.train.adaptation.ema import update_ema
from stages.train.adaptation.losses import cells_of, feature_distance, segmentation_loss
from stages.train.adaptation.masking import draw_blocks, mask_images
from stages.train.adaptation.mixing import class_mask, draw_classes, mix, mix_features
from stages.train.adaptation.pseudo_labels import PseudoLabels, pseudo_labels, pseudo_weight
from stages.train.config import SelfTrainingConfig, TrainConfig
from stages.train.crops import STEP_STREAM, Batch, Sample
from stages.train.models import Models

LOSSES = ("clean", "enhanced_source", "feature_distance", "mix", "enhanced_mix", "masked")


class Draws(NamedTuple):
    """The random choices of one step; `masked` and `blocks` are for masked image consistency."""

    classes: list[list[int]]
    mixed: list[StrongDraw]
    masked: list[StrongDraw]
    blocks: Tensor | None

    def of(self, rows: slice) -> "Draws":
        """Choices of some images of the batch, for a rank that has only these."""
        return Draws(
            self.classes[rows],
            self.mixed[rows],
            [draw.of(rows) for draw in self.masked],
            None if self.blocks is None else self.blocks[rows],
        )


def draw_step(config: TrainConfig, source_label: Tensor, iteration: int) -> Draws | None:
    """Draw the choices of an iteration from the seed and its number alone.

    Args:
        config: Section `train`.
        source_label: (B, H, W), on the CPU: its classes decide what is drawn.
        iteration: 0-based.

    Returns:
        None where the iteration trains on the source only.
    """
    self_training = config.self_training
    if self_training is None or iteration < self_training.start:
        return None
    rng = np.random.default_rng((config.seed, STEP_STREAM, iteration))
    batch, height, width = source_label.shape
    classes = draw_classes(rng, source_label, self_training.class_pool)
    mixed = _draw_strong(rng, batch, self_training, per_image=True)
    if config.masking is None:
        return Draws(classes, mixed, [], None)
    masked = _draw_strong(rng, batch, self_training, per_image=False)
    blocks = draw_blocks(rng, batch, (height, width), config.masking.block_px)
    return Draws(classes, mixed, masked, blocks)


class Mixed(NamedTuple):
    """ClassMix of source and target, augmented.

    Attributes:
        image: (B, 3, H, W), normalised.
        label: (B, H, W) int64, ground truth where the mask is set, else pseudo-labels.
        weight: (B, H, W), 1 where the mask is set, else the confidence or 0 in the margins.
        mask: (B, 1, H, W) bool, set where the source is.
    """

    image: Tensor
    label: Tensor
    weight: Tensor
    mask: Tensor


FeatureMixer = Callable[[Mixed, Batch], Mapping[str, Tensor]]
"""(mixed images, batch) -> teacher features of the mixed images."""


def mix_stored(mixed: Mixed, batch: Batch) -> Mapping[str, Tensor]:
    """Mix the stored features of source and target as their pixels are; see `mix_features`."""
    return mix_features(mixed.mask, batch.source_features, batch.target_features)


@dataclass(frozen=True)
class Feed:
    """Source of the teacher's features.

    Attributes:
        name: Part of the run's fingerprint: a checkpoint is not resumed with other features.
        samples: Crops with stored features -> crops with those of this feed.
        mixer: Makes the teacher features of the mixed images.
    """

    name: str
    samples: Callable[[Dataset[Sample]], Dataset[Sample]]
    mixer: FeatureMixer


STORED: Final = Feed("stored", lambda crops: crops, mix_stored)
"""What the store holds, mixed as the pixels are: the pipeline's way, and the only one of `ssr`."""


class StepResult(NamedTuple):
    """What a step computed: detached losses by name, and what self-training made of the batch."""

    losses: dict[str, Tensor]
    pseudo: PseudoLabels | None
    mixed: Mixed | None


def train_step(
    models: Models,
    batch: Batch,
    draws: Draws | None,
    *,
    config: TrainConfig,
    iteration: int,
    mixer: FeatureMixer = mix_stored,
) -> StepResult:
    """Add the gradients of one step to student and regulariser, and move the EMA model.

    Losses that share a forward pass share a backward pass, which frees its memory. The official
    code goes back four times, with one graph retained; the gradients are the same.

    Args:
        models: The networks, on the device of the batch; student and regulariser in train mode.
        batch: Crops and their features.
        draws: Random choices; None trains on the source only.
        config: Section `train`.
        iteration: 0-based.
        mixer: Makes the teacher features of the mixed images.

    Returns:
        Losses, pseudo-labels and mixed images, detached. Nothing here waits for the device.
    """
    student, regularizer, enhanced_parts = models.student, models.regularizer, config.regularizer.on
    pseudo = None
    if draws is not None:
        pseudo = _follow_and_label(models, batch, config, iteration)

    things = _count_things(models, batch, config)

    def source_losses(part: slice) -> dict[str, Tensor]:
        image, label = batch.source_image[part], batch.source_label[part]
        features = student.features(image)
        losses = {"clean": segmentation_loss(student.classify(features), label)}
        if regularizer is not None and "source" in enhanced_parts:
            enhanced = regularizer.logits(student, features, _part(batch.source_features, part))
            losses["enhanced_source"] = segmentation_loss(enhanced, label)
        losses = _scaled(losses, len(label) / len(batch))
        if things is not None:  # divides by the cells of the whole batch itself
            losses["feature_distance"] = _feature_distance(
                models, config, features[-1], image, label, among=things
            )
        return losses

    losses = _accumulate(source_losses, batch, config)
    if draws is None or pseudo is None:
        return StepResult(losses, None, None)

    mixed = _mix(batch, pseudo, draws)
    mixed_teacher: Mapping[str, Tensor] = {}
    if regularizer is not None and "mixed" in enhanced_parts:
        mixed_teacher = mixer(mixed, batch)

    def mixed_losses(part: slice) -> dict[str, Tensor]:
        label, weight = mixed.label[part], mixed.weight[part]
        features = student.features(mixed.image[part])
        losses = {"mix": segmentation_loss(student.classify(features), label, weight)}
        if regularizer is not None and "mixed" in enhanced_parts:
            enhanced = regularizer.logits(student, features, _part(mixed_teacher, part))
            losses["enhanced_mix"] = segmentation_loss(enhanced, label, weight)
        return _scaled(losses, len(label) / len(batch))

    losses |= _accumulate(mixed_losses, batch, config)
    if config.masking is None or draws.blocks is None:
        return StepResult(losses, pseudo, mixed)

    ratio, masked_weight = config.masking.ratio, config.masking.weight
    masked = mask_images(augment(batch.target_image, draws.masked), draws.blocks, ratio)
    weight = pseudo_weight(pseudo.confidence, batch.target_valid)

    def masked_losses(part: slice) -> dict[str, Tensor]:
        label = pseudo.label[part]
        loss = segmentation_loss(student(masked[part]), label, weight[part])
        return _scaled({"masked": loss}, masked_weight * len(label) / len(batch))

    losses |= _accumulate(masked_losses, batch, config)
    return StepResult(losses, pseudo, mixed)


@torch.no_grad()
def _follow_and_label(
    models: Models, batch: Batch, config: TrainConfig, iteration: int
) -> PseudoLabels:
    """Update the EMA model, then let it label the clean target crops.

    Differs from SSR where the average of a branch labels them, on the EMA model's features.
    """
    self_training = config.self_training
    assert self_training is not None
    assert models.ema is not None
    since = iteration - self_training.start
    update_ema(models.ema, models.student, since, self_training.ema_decay)
    branch = models.ema_branch
    if branch is not None:
        assert models.regularizer is not None
        update_ema(branch, models.regularizer, since, self_training.ema_decay)
    with _autocast(config, batch):
        features = models.ema.features(batch.target_image)
        logits = (
            models.ema.classify(features)
            if branch is None
            else branch.logits(models.ema, features, batch.target_features)
        )
    height, width = batch.target_image.shape[-2:]
    return pseudo_labels(logits, (height, width), self_training.threshold)


@torch.no_grad()
def _mix(batch: Batch, pseudo: PseudoLabels, draws: Draws) -> Mixed:
    mask = class_mask(batch.source_label, draws.classes)
    weight = pseudo_weight(pseudo.confidence, batch.target_valid)
    return Mixed(
        image=augment(mix(mask, batch.source_image, batch.target_image), draws.mixed),
        label=mix(mask, batch.source_label, pseudo.label),
        weight=mix(mask, 1.0, weight),
        mask=mask,
    )


def _count_things(models: Models, batch: Batch, config: TrainConfig) -> Tensor | None:
    """Count the cells of the batch that feature distance looks at; None where it is off."""
    if models.imagenet is None or config.feature_distance is None:
        return None
    return cells_of(
        batch.source_label,
        COARSEST_PX,
        num_classes=models.student.num_classes,
        classes=models.imagenet.classes,
        min_share=config.feature_distance.min_share,
    ).sum()


def _feature_distance(
    models: Models,
    config: TrainConfig,
    features: Tensor,
    images: Tensor,
    label: Tensor,
    *,
    among: Tensor,
) -> Tensor:
    assert models.imagenet is not None
    assert config.feature_distance is not None
    with torch.no_grad():
        reference = stage_features(models.imagenet.backbone, images)[-1]
    return config.feature_distance.weight * feature_distance(
        features,
        reference,
        label,
        num_classes=models.student.num_classes,
        classes=models.imagenet.classes,
        min_share=config.feature_distance.min_share,
        among=among,
    )


def _accumulate(
    losses_of: Callable[[slice], dict[str, Tensor]], batch: Batch, config: TrainConfig
) -> dict[str, Tensor]:
    """Go forward and back over the micro-batches; return the sums of their losses, detached."""
    size = config.micro_batch_size or len(batch)
    totals: dict[str, Tensor] = {}
    for start in range(0, len(batch), size):
        with _autocast(config, batch):
            losses = losses_of(slice(start, start + size))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for name, loss in losses.items():
            totals[name] = totals[name] + loss.detach() if name in totals else loss.detach()
    return totals


def _autocast(config: TrainConfig, batch: Batch) -> torch.autocast:
    """Let matrix products run in bfloat16, if they shall; losses ask for float32 themselves."""
    return torch.autocast(
        batch.source_image.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
    )


def _scaled(losses: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {name: factor * loss for name, loss in losses.items()}


def _part(features: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
    return {level: maps[part] for level, maps in features.items()}


def _draw_strong(
    rng: np.random.Generator, batch: int, config: SelfTrainingConfig, *, per_image: bool
) -> list[StrongDraw]:
    return draw_strong(
        rng,
        batch,
        jitter_probability=config.jitter_probability,
        jitter_strength=config.jitter_strength,
        blur_probability=config.blur_probability,
        per_image=per_image,
    )
