"""One training step: its random choices, and all passes of SSR in the order of its code.

    objective = clean + enhanced_source + feature_distance + mix + enhanced_mix + masked

Steps of distillation alone come before the task; `distill.keep` adds its loss on target images to
this sum. Gradients are added up, the caller updates. B batch, C channels, H W pixels, h w tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.prepare.manifest import Domain
from stages.student import hrda
from stages.student.mit import COARSEST_PX, stage_features
from stages.student.query_head import QueryHead
from stages.student.semask import auxiliary_loss
from stages.student.student import Pass
from stages.train.adaptation.augment import (
    StrongDraw,
    augment,
    class_mask,
    draw_blocks,
    draw_classes,
    draw_strong,
    mask_images,
    mix,
    mix_features,
)
from stages.train.adaptation.losses import cells_of, feature_distance, segmentation_loss
from stages.train.adaptation.pseudo_labels import (
    PseudoLabels,
    agreed,
    most_probable,
    most_probable_stored,
    pseudo_weight,
    update_ema,
    weighted,
)
from stages.train.config import TrainConfig
from stages.train.crops import BOX_STREAM, DISTILL_STREAM, STEP_STREAM, Batch, Sample
from stages.train.models import Models
from stages.train.regularizers.branch import Seen, observed

LOSSES = ("clean", "enhanced_source", "feature_distance", "mix", "enhanced_mix", "masked")
PARTS: Final = ("detail", "auxiliary")
"""What a loss may have beside it, as `clean_detail`: HRDA's detail; SeMask's class maps, or the
earlier layers of a query head."""

ENHANCED: Final = {"clean": "enhanced_source", "mix": "enhanced_mix"}
"""Loss of the student -> that of its enhanced pass."""

Losses = dict[str, Tensor]


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
    """Draw the choices of a 0-based iteration from the seed and its number alone.

    The classes of `source_label` (B, H, W), on the CPU, decide what is drawn; None is drawn where
    the iteration trains on the source only.
    """
    self_training = config.self_training
    if self_training is None or iteration < self_training.start:
        return None
    rng = np.random.default_rng((config.seed, STEP_STREAM, iteration))
    batch, height, width = source_label.shape
    classes = draw_classes(rng, source_label, self_training.class_pool)
    mixed = draw_strong(rng, batch, self_training, per_image=True)
    if config.masking is None:
        return Draws(classes, mixed, [], None)
    masked = draw_strong(rng, batch, self_training, per_image=False)
    blocks = draw_blocks(rng, batch, (height, width), config.masking.block_px)
    return Draws(classes, mixed, masked, blocks)


Boxes = Mapping[str, hrda.Box]
"""Loss of the student -> place of HRDA's detail crop in its images."""


def draw_boxes(config: TrainConfig, iteration: int) -> Boxes:
    """Draw three places from the seed and the iteration alone; none without HRDA or a task."""
    if config.student.hrda is None or iteration < 0:
        return {}
    rng = np.random.default_rng((config.seed, BOX_STREAM, iteration))
    crop, detail = (config.crop_px,) * 2, (config.student.hrda.detail_px,) * 2
    return {
        name: hrda.draw_box(lambda places: int(rng.integers(places)), crop, detail)
        for name in ("clean", "mix", "masked")
    }


DistillDraws = Mapping[Domain, list[StrongDraw]]
"""Domain whose images are distilled -> augmentation of each image; [] leaves them as they are."""


def draw_distilled(config: TrainConfig, iteration: int) -> DistillDraws:
    """Draw the augmentation of distilled images, of all ranks, as `self_training` augments.

    The iteration is counted from the first step of distillation; {} where nothing is distilled.
    """
    before = iteration < config.distill_steps
    if config.distill is None or not (before or config.distill.keep):
        return {}
    domains: tuple[Domain, ...] = ("source", "target")
    drawn: dict[Domain, list[StrongDraw]] = {domain: [] for domain in domains}
    if config.self_training is not None:
        rng = np.random.default_rng((config.seed, DISTILL_STREAM, iteration))
        batch, augmentation = config.batch_size, config.self_training
        drawn = {each: draw_strong(rng, batch, augmentation, per_image=True) for each in domains}
    return drawn if before else {"target": drawn["target"]}


class Views(NamedTuple):
    """What self-training looks at beside the batch; no weight has a part in it."""

    mask: Tensor  # (B, 1, H, W) bool, set where mixed images show the source
    mixed: Tensor  # (B, 3, H, W), ClassMix of source and target, augmented and normalised
    teacher: Mapping[str, Tensor]  # of the mixed images, level -> (B, C, h, w); empty if unread
    masked: Tensor | None  # (B, 3, H, W), the target, augmented, with hidden blocks, for MIC


FeatureMixer = Callable[[Tensor, Tensor, Batch], Mapping[str, Tensor]]
"""(mask, mixed images, batch) -> teacher features of the mixed images."""


def mix_stored(mask: Tensor, _: Tensor, batch: Batch) -> Mapping[str, Tensor]:
    """Mix the stored features of source and target as their pixels are."""
    return mix_features(mask, batch.source_features, batch.target_features)


@dataclass(frozen=True)
class Feed:
    """Source of the teacher's features: of crops, and of mixed images.

    Its name is part of the run's fingerprint: a checkpoint is not resumed with other features.
    """

    name: str
    samples: Callable[[Dataset[Sample]], Dataset[Sample]]
    mixer: FeatureMixer


STORED: Final = Feed("stored", lambda crops: crops, mix_stored)
"""What the store holds, mixed as the pixels are: the pipeline's way, and the only one of `ssr`."""


@dataclass(frozen=True)
class Step:
    """All that the passes of a step read."""

    models: Models
    config: TrainConfig
    batch: Batch
    of_task: bool  # False is distillation alone
    things: Tensor | None  # (B, h, w) bool, cells that feature distance looks at; None if it is off
    views: Views | None  # None trains on the source only
    distilled: Mapping[Domain, Tensor]  # (B, 3, H, W) that the student sees while it is distilled
    boxes: Boxes
    observe: bool  # note what the regulariser does, for a row of its health


class Mixed(NamedTuple):
    """What is learned from mixed images."""

    image: Tensor  # (B, 3, H, W), normalised
    label: Tensor  # (B, H, W) int64, ground truth where the mask is set, else pseudo-labels
    weight: Tensor  # (B, H, W), 1 where the mask is set, else the confidence, or 0 in the margins
    mask: Tensor  # (B, 1, H, W) bool, set where the source is


class StepResult(NamedTuple):
    """What a step computed, detached; `seen` is for a row of `runs/health.csv`."""

    losses: Losses
    pseudo: PseudoLabels | None
    mixed: Mixed | None
    seen: Seen


Passes = Callable[[Step], StepResult]
"""`run_passes`, or what does the same in another way."""


def train_step(
    models: Models,
    batch: Batch,
    draws: Draws | None,
    *,
    config: TrainConfig,
    iteration: int,
    mixer: FeatureMixer = mix_stored,
    boxes: Boxes | None = None,
    distilled: DistillDraws | None = None,
    observe: bool = False,
    passes: Passes | None = None,
) -> StepResult:
    """Move the EMA model, and add the gradients of one step to all that learns.

    Models are on the device of the batch, those that learn in train mode; nothing here waits for
    the device. The iteration is of the task, and negative in the steps before it. `distilled` says
    which images are distilled beside it; `passes` is `run_passes` by default.
    """
    of_task = iteration >= 0
    things, views = _thing_cells(models, batch, config) if of_task else None, None
    if draws is not None and config.self_training is not None:
        views = _draw_views(batch, draws, config, mixer)
        since, most = iteration - config.self_training.start, config.self_training.ema_decay
        if models.ema is not None:
            update_ema(models.ema, models.student, since, most)
        if models.ema_branch is not None and models.regularizer is not None:
            update_ema(models.ema_branch, models.regularizer, since, most)
    images: dict[Domain, Tensor] = {"source": batch.source_image, "target": batch.target_image}
    shown = {
        domain: augment(images[domain], draw) if draw else images[domain]
        for domain, draw in (distilled or {}).items()
    }
    step = Step(models, config, batch, of_task, things, views, shown, boxes or {}, observe)
    return (passes or run_passes)(step)


def run_passes(step: Step) -> StepResult:
    """Go forward and back through all networks: what a step computes from weights.

    It can be recorded as a CUDA graph (`stages.train.graphs`): the host sends nothing to the device
    and reads nothing from it, and the same kernels run in every iteration.
    """
    models = step.models
    networks = (models.regularizer, models.student) if step.observe else (None, None)
    models.half.refresh()
    with observed(*networks) as seen:
        losses, pseudo, mixed = _learn_task(step) if step.of_task else ({}, None, None)
    for domain, images in step.distilled.items():
        losses |= _distill(step, domain, images, seen)
    return StepResult(losses, pseudo, mixed, seen)


def _learn_task(step: Step) -> tuple[Losses, PseudoLabels | None, Mixed | None]:
    models, config, batch, views = step.models, step.config, step.batch, step.views
    pseudo = None if views is None else _label(models, batch, config)
    teacher = batch.source_features if "source" in config.regularizer.on else {}
    losses = _learn(step, "clean", batch.source_image, batch.source_label, None, teacher)
    if views is None or pseudo is None:
        return losses, None, None

    weight = pseudo_weight(pseudo.weight, batch.target_valid)
    mixed = Mixed(
        image=views.mixed,
        label=mix(views.mask, batch.source_label, pseudo.label),
        weight=mix(views.mask, 1.0, weight),
        mask=views.mask,
    )
    losses |= _learn(step, "mix", mixed.image, mixed.label, mixed.weight, views.teacher)
    if views.masked is not None:
        losses |= _learn(step, "masked", views.masked, pseudo.label, weight, {})
    return losses, pseudo, mixed


def _distill(step: Step, domain: Domain, images: Tensor, seen: Seen) -> Losses:
    """Add the gradients of distillation on images (B, 3, H, W), to the backbone and the distiller.

    The shares of variance explained are added to what was seen.
    """
    models, config, batch = step.models, step.config, step.batch
    assert models.distiller is not None
    assert config.distill is not None
    distiller, factor = models.distiller, config.distill.keep if step.of_task else 1.0
    teacher = batch.target_features if domain == "target" else batch.source_features

    def losses_of(part: slice) -> Losses:
        image = images[part]
        loss, explained = distiller(models.student.features(image), part_of(teacher, part))
        for name, value in explained.items():
            seen.setdefault(name, []).append(value)
        return {f"distill_{domain}": factor * len(image) / len(batch) * loss}

    return accumulate(losses_of, models, batch, config)


def _learn(
    step: Step,
    name: str,
    images: Tensor,
    label: Tensor,
    weight: Tensor | None,
    teacher: Mapping[str, Tensor],
) -> Losses:
    """Add the gradients of all losses that share a forward pass; return these losses.

    They share a backward pass, too, which frees its memory. The official code goes back four times,
    with one graph retained; the gradients are the same. Images are (B, 3, H, W), their label and
    weight (B, H, W); without a level of the teacher there is no enhanced pass.
    """
    models, config, batch, student = step.models, step.config, step.batch, step.models.student
    is_source = name == "clean"
    factor = config.masking.weight if name == "masked" and config.masking else 1.0

    def losses_of(part: slice) -> Losses:
        image, of_pixels = images[part], (label[part], None if weight is None else weight[part])
        begun = batch.source_begun[part] if is_source and batch.source_begun is not None else None
        seen = student.see(image, step.boxes.get(name), begun)
        losses = _student_losses(step, name, seen, *of_pixels)
        if teacher and models.regularizer is not None:
            enhanced = models.regularizer.logits(student, seen, part_of(teacher, part))
            losses |= _pixel_losses(step, ENHANCED[name], enhanced, seen, *of_pixels)
        losses = {key: factor * len(image) / len(images) * loss for key, loss in losses.items()}
        if is_source and step.things is not None:
            losses["feature_distance"] = _distance(step, image, seen, step.things[part])
        return losses

    return accumulate(losses_of, models, batch, config)


def _student_losses(
    step: Step, name: str, seen: Pass, label: Tensor, weight: Tensor | None
) -> Losses:
    student, semask = step.models.student, step.config.student.semask
    if isinstance(student.head, QueryHead):
        last, before = student.head.losses(seen.features, label)
        return {name: last, f"{name}_auxiliary": before}
    losses = _pixel_losses(step, name, student.decode(seen), seen, label, weight)
    if semask is not None:
        losses[f"{name}_auxiliary"] = auxiliary_loss(
            seen.class_maps, label, weight, loss=segmentation_loss, factor=semask.aux_weight
        )
    return losses


def _pixel_losses(
    step: Step,
    name: str,
    predicted: Tensor | hrda.Fused,
    seen: Pass,
    label: Tensor,
    weight: Tensor | None,
) -> Losses:
    if isinstance(predicted, Tensor):
        return {name: segmentation_loss(predicted, label, weight)}
    assert step.config.student.hrda is not None
    assert seen.box is not None
    factor = step.config.student.hrda.detail_weight
    terms = hrda.scale_losses(
        predicted, label, weight, box=seen.box, loss=segmentation_loss, detail_weight=factor
    )
    return {name: terms["fused"], f"{name}_detail": terms["detail"]}


def _distance(step: Step, image: Tensor, seen: Pass, cells: Tensor) -> Tensor:
    assert step.models.imagenet is not None
    assert step.config.feature_distance is not None
    assert step.things is not None
    with torch.no_grad():
        image = image if seen.box is None else hrda.context_images(image)
        reference = stage_features(step.models.imagenet.backbone.stages, image)[-1]
    distance = feature_distance(seen.features[-1], reference, cells, step.things.sum())
    return step.config.feature_distance.weight * distance


def _draw_views(batch: Batch, draws: Draws, config: TrainConfig, mixer: FeatureMixer) -> Views:
    """Mix, augment and mask the images of a batch as it was drawn, on their device."""
    mask = class_mask(batch.source_label, draws.classes)
    mixed = augment(mix(mask, batch.source_image, batch.target_image), draws.mixed)
    teacher = mixer(mask, mixed, batch) if "mixed" in config.regularizer.on else {}
    masked = None
    if config.masking is not None and draws.blocks is not None:
        augmented = augment(batch.target_image, draws.masked)
        masked = mask_images(augmented, draws.blocks, config.masking.ratio)
    return Views(mask, mixed, teacher, masked)


@torch.no_grad()
def _label(models: Models, batch: Batch, config: TrainConfig) -> PseudoLabels:
    """Let the EMA model, or the average of a branch, label the clean targets; the store; or both.

    With labels of the store alone there is no EMA model, and no pass through it.
    """
    self_training = config.self_training
    assert self_training is not None
    height, width = batch.target_image.shape[-2:]
    believed = []
    if models.ema is not None:
        with models.half.used(), _autocast(config, batch):
            if models.ema_branch is None:
                logits = models.ema(batch.target_image)
            else:
                seen = models.ema.see(batch.target_image)
                branch = models.ema_branch.logits(models.ema, seen, batch.target_features)
                logits = hrda.logits_of(branch)
        believed.append(most_probable(logits, (height, width)))
    if batch.target_probabilities is not None:
        believed.append(most_probable_stored(batch.target_probabilities, (height, width)))
    found = believed[0] if len(believed) == 1 else agreed(*believed)
    threshold = self_training.threshold if self_training.weight == "share" else None
    return weighted(*found, threshold)


def _thing_cells(models: Models, batch: Batch, config: TrainConfig) -> Tensor | None:
    """Mark the cells of the batch that feature distance looks at; None where it is off."""
    if models.imagenet is None or config.feature_distance is None:
        return None
    scale = 1 if models.student.attention is None else hrda.CONTEXT_SCALE
    return cells_of(
        batch.source_label,
        int(COARSEST_PX / scale),
        num_classes=models.student.num_classes,
        classes=models.imagenet.classes,
        min_share=config.feature_distance.min_share,
    )


def accumulate(
    losses_of: Callable[[slice], Losses], models: Models, batch: Batch, config: TrainConfig
) -> Losses:
    """Go forward and back over the micro-batches; return the sums of their losses, detached."""
    size = config.micro_batch_size or len(batch)
    totals: Losses = {}
    for start in range(0, len(batch), size):
        with models.half.used():
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


def part_of(features: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
    """Return the features of some images of a batch."""
    return {level: maps[part] for level, maps in features.items()}
