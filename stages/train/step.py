"""One training step: every forward and backward pass of SSR in the official order (spec section 0).

    objective = clean + enhanced_source + feature_distance + mix + enhanced_mix + masked

Gradients are added up, the caller updates. B batch, C channels, H W pixels, h w tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from stages.train.adaptation.augment import StrongDraw, augment, draw_strong
from stages.train.adaptation.ema import update_ema
from stages.train.adaptation.losses import feature_distance, segmentation_loss
from stages.train.adaptation.masking import draw_blocks, mask_images
from stages.train.adaptation.mixing import class_mask, draw_classes, mix, mix_features
from stages.train.adaptation.pseudo_labels import PseudoLabels, pseudo_labels, pseudo_weight
from stages.train.config import SelfTrainingConfig, TrainConfig
from stages.train.dataset import STEP_STREAM, Batch
from stages.train.model.backbone import stage_features
from stages.train.model.regularizer import Regularizer
from stages.train.model.student import Student

LOSSES = ("clean", "enhanced_source", "feature_distance", "mix", "enhanced_mix", "masked")

FeatureMixer = Callable[[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]], Mapping[str, Tensor]]
"""(mask, source features, target features) -> teacher features of the mixed images."""


@dataclass(frozen=True)
class ImageNetReference:
    """The frozen ImageNet backbone that feature distance compares with.

    Attributes:
        backbone: In eval mode, without gradients.
        classes: Train ids of the thing classes.
    """

    backbone: SegformerModel
    classes: Sequence[int]


@dataclass(frozen=True)
class Models:
    """The networks of a run; None where the configuration does without."""

    student: Student
    ema: Student | None
    regularizer: Regularizer | None
    imagenet: ImageNetReference | None


class Draws(NamedTuple):
    """The random choices of one step; `masked` and `blocks` are for masked image consistency."""

    classes: list[list[int]]
    mixed: list[StrongDraw]
    masked: list[StrongDraw]
    blocks: Tensor | None


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


class StepResult(NamedTuple):
    """What a step computed: detached losses by name, and what self-training made of the batch."""

    losses: dict[str, Tensor]
    pseudo: PseudoLabels | None
    mixed: Mixed | None


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


def train_step(
    models: Models,
    batch: Batch,
    draws: Draws | None,
    *,
    config: TrainConfig,
    iteration: int,
    mixer: FeatureMixer = mix_features,
) -> StepResult:
    """Add the gradients of one step to student and regulariser, and move the EMA model.

    Args:
        models: The networks, on the device of the batch; student and regulariser in train mode.
        batch: Crops and their features.
        draws: Random choices; None trains on the source only.
        config: Section `train`.
        iteration: 0-based.
        mixer: Makes the teacher features of the mixed images.

    Returns:
        Losses, pseudo-labels and mixed images, detached.
    """
    student, regularizer, enhanced_parts = models.student, models.regularizer, config.regularizer.on
    label = batch.source_label
    pseudo = None
    if draws is not None:
        pseudo = _follow_and_label(models, batch, config, iteration)

    losses = {}
    features = student.features(batch.source_image)
    losses["clean"] = segmentation_loss(student.classify(features), label)
    if regularizer is not None and "source" in enhanced_parts:
        enhanced = regularizer(features, batch.source_features)
        losses["enhanced_source"] = segmentation_loss(student.classify(enhanced), label)
    if models.imagenet is not None and config.feature_distance is not None:
        losses["feature_distance"] = config.feature_distance.weight * feature_distance(
            features[-1],
            _imagenet_features(models.imagenet, batch.source_image),
            label,
            num_classes=student.num_classes,
            classes=models.imagenet.classes,
            min_share=config.feature_distance.min_share,
        )
    _backward(losses)
    if draws is None or pseudo is None:
        return StepResult(_detached(losses), None, None)

    mixed = _mix(batch, pseudo, draws)
    mixed_losses = {}
    features = student.features(mixed.image)
    mixed_losses["mix"] = segmentation_loss(student.classify(features), mixed.label, mixed.weight)
    if regularizer is not None and "mixed" in enhanced_parts:
        teacher = mixer(mixed.mask, batch.source_features, batch.target_features)
        enhanced = regularizer(features, teacher)
        mixed_losses["enhanced_mix"] = segmentation_loss(
            student.classify(enhanced), mixed.label, mixed.weight
        )
    _backward(mixed_losses)

    masked_losses = {}
    if config.masking is not None and draws.blocks is not None:
        masked = mask_images(
            augment(batch.target_image, draws.masked), draws.blocks, config.masking.ratio
        )
        weight = pseudo_weight(pseudo.confidence, batch.target_valid)
        masked_losses["masked"] = config.masking.weight * segmentation_loss(
            student(masked), pseudo.label, weight
        )
        _backward(masked_losses)
    return StepResult(_detached(losses | mixed_losses | masked_losses), pseudo, mixed)


def without_noise(ema: Student) -> Student:
    """Switch off what is random in the EMA model, and its gradients.

    The rest stays in train mode: its batch norms use the statistics of the target batch and move
    their own running averages, which nothing reads (spec section 3.1).
    """
    ema.train().requires_grad_(False)
    for module in ema.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d | SegformerDropPath):
            module.eval()
    return ema


@torch.no_grad()
def _follow_and_label(
    models: Models, batch: Batch, config: TrainConfig, iteration: int
) -> PseudoLabels:
    """Update the EMA model, then let it label the clean target crops."""
    self_training = config.self_training
    assert self_training is not None
    assert models.ema is not None
    since = iteration - self_training.start
    update_ema(models.ema, models.student, since, self_training.ema_decay)
    logits = models.ema(batch.target_image)
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


@torch.no_grad()
def _imagenet_features(reference: ImageNetReference, images: Tensor) -> Tensor:
    return stage_features(reference.backbone, images)[-1]


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


def _backward(losses: Mapping[str, Tensor]) -> None:
    """Backpropagate the sum of the losses that share a forward pass, which frees its memory."""
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]


def _detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss.detach() for name, loss in losses.items()}
