"""One training step: its random choices, and all passes of SSR in the order of its code.

    objective = clean + enhanced_source + feature_distance + mix + enhanced_mix + masked

Gradients are added up, the caller updates. B batch, C channels, H W pixels, h w tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from stages.student.hrda import (
    CONTEXT_SCALE,
    Box,
    Fused,
    context_images,
    draw_box,
    logits_of,
    scale_losses,
)
from stages.student.mit import COARSEST_PX, stage_features
from stages.student.query_head import QueryHead
from stages.student.semask import auxiliary_loss
from stages.student.student import Pass, Student
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
from stages.train.crops import BOX_STREAM, STEP_STREAM, Batch, Sample
from stages.train.models import Models
from stages.train.regularizers.branch import Seen, observed

LOSSES = ("clean", "enhanced_source", "feature_distance", "mix", "enhanced_mix", "masked")
PARTS: Final = ("detail", "auxiliary")
"""What a loss may have beside it, as `clean_detail`: HRDA's detail; SeMask's class maps, or the
earlier layers of a query head."""


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


class Boxes(NamedTuple):
    """Places of HRDA's detail crops in the images of one step."""

    source: Box | None = None
    mixed: Box | None = None
    masked: Box | None = None


ONE_SCALE: Final = Boxes()


def draw_boxes(config: TrainConfig, iteration: int) -> Boxes:
    """Draw three places from the seed and the iteration alone; none where HRDA is off."""
    if config.student.hrda is None:
        return ONE_SCALE
    rng = np.random.default_rng((config.seed, BOX_STREAM, iteration))
    crop, detail = config.crop_px, config.student.hrda.detail_px
    return Boxes(
        *(
            draw_box(lambda places: int(rng.integers(places)), (crop, crop), (detail, detail))
            for _ in Boxes._fields
        )
    )


class Views(NamedTuple):
    """What a step looks at beside its batch; no weight has a part in it.

    Attributes:
        things: (B, h, w) bool, cells that feature distance looks at; None where it is off.
        mask: (B, 1, H, W) bool, set where mixed images show the source; None, as all that follows,
            where the step trains on the source only.
        mixed: (B, 3, H, W), ClassMix of source and target, augmented and normalised.
        masked: (B, 3, H, W), the target, augmented, with hidden blocks; None without masking.
    """

    things: Tensor | None
    mask: Tensor | None = None
    mixed: Tensor | None = None
    masked: Tensor | None = None


def draw_views(models: Models, batch: Batch, draws: Draws | None, config: TrainConfig) -> Views:
    """Mix, augment and mask the images of a batch as it was drawn, on their device."""
    things = _thing_cells(models, batch, config)
    if draws is None:
        return Views(things)
    mask = class_mask(batch.source_label, draws.classes)
    mixed = augment(mix(mask, batch.source_image, batch.target_image), draws.mixed)
    if config.masking is None or draws.blocks is None:
        return Views(things, mask, mixed)
    augmented = augment(batch.target_image, draws.masked)
    return Views(things, mask, mixed, mask_images(augmented, draws.blocks, config.masking.ratio))


class Mixed(NamedTuple):
    """ClassMix of source and target, augmented."""

    image: Tensor  # (B, 3, H, W), normalised
    label: Tensor  # (B, H, W) int64, ground truth where the mask is set, else pseudo-labels
    weight: Tensor  # (B, H, W), 1 where the mask is set, else the confidence, or 0 in the margins
    mask: Tensor  # (B, 1, H, W) bool, set where the source is


FeatureMixer = Callable[[Mixed, Batch], Mapping[str, Tensor]]
"""(mixed images, batch) -> teacher features of the mixed images."""


def mix_stored(mixed: Mixed, batch: Batch) -> Mapping[str, Tensor]:
    """Mix the stored features of source and target as their pixels are."""
    return mix_features(mixed.mask, batch.source_features, batch.target_features)


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


class StepResult(NamedTuple):
    """What a step computed, detached.

    Attributes:
        losses: By name.
        pseudo: What self-training made of the batch; likewise `mixed`.
        seen: Values for a row of `runs/health.csv`.
    """

    losses: dict[str, Tensor]
    pseudo: PseudoLabels | None
    mixed: Mixed | None
    seen: Seen


class Passes(Protocol):
    """`run_passes`, or what does the same in another way."""

    def __call__(
        self,
        models: Models,
        batch: Batch,
        views: Views,
        *,
        config: TrainConfig,
        mixer: FeatureMixer,
        boxes: Boxes,
        observe: bool,
    ) -> StepResult:
        """Add gradients; return losses, pseudo-labels and mixed images."""


def train_step(
    models: Models,
    batch: Batch,
    draws: Draws | None,
    *,
    config: TrainConfig,
    iteration: int,
    mixer: FeatureMixer = mix_stored,
    boxes: Boxes = ONE_SCALE,
    observe: bool = False,
    passes: Passes | None = None,
) -> StepResult:
    """Move the EMA model, and add the gradients of one step to student and regulariser.

    Args:
        models: On the device of the batch; student and regulariser in train mode.
        batch: Crops and their features.
        draws: None trains on the source only.
        config: Section `train`.
        iteration: 0-based.
        mixer: Makes the teacher features of the mixed images.
        boxes: As of `draw_boxes`.
        observe: Also note what the regulariser does, for a row of its health.
        passes: Runs the passes; None is `run_passes` itself.

    Returns:
        Losses, pseudo-labels and mixed images, detached. Nothing here waits for the device.
    """
    views = draw_views(models, batch, draws, config)
    if draws is not None:
        _follow(models, config, iteration)
    passes = passes or run_passes
    return passes(models, batch, views, config=config, mixer=mixer, boxes=boxes, observe=observe)


def run_passes(
    models: Models,
    batch: Batch,
    views: Views,
    *,
    config: TrainConfig,
    mixer: FeatureMixer = mix_stored,
    boxes: Boxes = ONE_SCALE,
    observe: bool = False,
) -> StepResult:
    """Go forward and back through all networks: what a step computes from weights.

    It can be recorded as a CUDA graph (`stages.train.graphs`): the host sends nothing to the device
    and reads nothing from it, and the same kernels run in every iteration.

    Losses that share a forward pass share a backward pass, which frees its memory. The official
    code goes back four times, with one graph retained; the gradients are the same.
    """
    with observed(*(models.regularizer, models.student) if observe else (None, None)) as seen:
        return StepResult(*_run_passes(models, batch, views, config, mixer, boxes), seen)


def _run_passes(
    models: Models,
    batch: Batch,
    views: Views,
    config: TrainConfig,
    mixer: FeatureMixer,
    boxes: Boxes,
) -> tuple[dict[str, Tensor], PseudoLabels | None, Mixed | None]:
    student, regularizer, enhanced_parts = models.student, models.regularizer, config.regularizer.on
    models.half.refresh()
    pseudo = None if views.mask is None else _label(models, batch, config)
    things = views.things

    def losses_of(
        name: str, predicted: Tensor | Fused, seen: Pass, label: Tensor, share: Tensor | None = None
    ) -> dict[str, Tensor]:
        if isinstance(predicted, Tensor):
            return {name: segmentation_loss(predicted, label, share)}
        assert config.student.hrda is not None
        assert seen.box is not None
        weight = config.student.hrda.detail_weight
        terms = scale_losses(
            predicted, label, share, box=seen.box, loss=segmentation_loss, detail_weight=weight
        )
        return {name: terms["fused"], f"{name}_detail": terms["detail"]}

    def plain_losses(
        name: str, seen: Pass, label: Tensor, share: Tensor | None = None
    ) -> dict[str, Tensor]:
        if isinstance(student.head, QueryHead):
            last, before = student.head.losses(seen.features, label)
            return {name: last, f"{name}_auxiliary": before}
        losses = losses_of(name, student.decode(seen), seen, label, share)
        if (semask := config.student.semask) is not None:
            losses[f"{name}_auxiliary"] = auxiliary_loss(
                seen.class_maps, label, share, loss=segmentation_loss, factor=semask.aux_weight
            )
        return losses

    def source_losses(part: slice) -> dict[str, Tensor]:
        image, label = batch.source_image[part], batch.source_label[part]
        begun = None if batch.source_begun is None else batch.source_begun[part]
        seen = student.see(image, boxes.source, begun)
        losses = plain_losses("clean", seen, label)
        if regularizer is not None and "source" in enhanced_parts:
            teacher = part_of(batch.source_features, part)
            enhanced = regularizer.logits(student, seen, teacher)
            losses |= losses_of("enhanced_source", enhanced, seen, label)
        losses = _scaled(losses, len(label) / len(batch))
        if things is not None and models.imagenet and config.feature_distance:
            with torch.no_grad():
                image = image if seen.box is None else context_images(image)
                reference = stage_features(models.imagenet.backbone.stages, image)[-1]
            distance = feature_distance(seen.features[-1], reference, things[part], things.sum())
            losses["feature_distance"] = config.feature_distance.weight * distance
        return losses

    losses = accumulate(source_losses, models, batch, config)
    if views.mask is None or views.mixed is None or pseudo is None:
        return losses, None, None

    weight = pseudo_weight(pseudo.weight, batch.target_valid)
    mixed = Mixed(
        image=views.mixed,
        label=mix(views.mask, batch.source_label, pseudo.label),
        weight=mix(views.mask, 1.0, weight),
        mask=views.mask,
    )
    mixed_teacher: Mapping[str, Tensor] = {}
    if regularizer is not None and "mixed" in enhanced_parts:
        mixed_teacher = mixer(mixed, batch)

    def mixed_losses(part: slice) -> dict[str, Tensor]:
        label, share = mixed.label[part], mixed.weight[part]
        seen = student.see(mixed.image[part], boxes.mixed)
        losses = plain_losses("mix", seen, label, share)
        if regularizer is not None and "mixed" in enhanced_parts:
            enhanced = regularizer.logits(student, seen, part_of(mixed_teacher, part))
            losses |= losses_of("enhanced_mix", enhanced, seen, label, share)
        return _scaled(losses, len(label) / len(batch))

    losses |= accumulate(mixed_losses, models, batch, config)
    if config.masking is None or views.masked is None:
        return losses, pseudo, mixed

    masked, masked_weight = views.masked, config.masking.weight

    def masked_losses(part: slice) -> dict[str, Tensor]:
        label = pseudo.label[part]
        seen = student.see(masked[part], boxes.masked)
        losses = plain_losses("masked", seen, label, weight[part])
        return _scaled(losses, masked_weight * len(label) / len(batch))

    losses |= accumulate(masked_losses, models, batch, config)
    return losses, pseudo, mixed


def _follow(models: Models, config: TrainConfig, iteration: int) -> None:
    """Move the EMA model, and that of a branch."""
    self_training = config.self_training
    if models.ema is None:  # it would label nothing
        return
    assert self_training is not None
    since = iteration - self_training.start
    update_ema(models.ema, models.student, since, self_training.ema_decay)
    if models.ema_branch is not None and models.regularizer is not None:
        update_ema(models.ema_branch, models.regularizer, since, self_training.ema_decay)


@torch.no_grad()
def _label(models: Models, batch: Batch, config: TrainConfig) -> PseudoLabels:
    """Let the EMA model, or the average of a branch, label the clean targets; the store; or both.

    With labels of the store alone there is no EMA model, and no pass through it.
    """
    self_training = config.self_training
    assert self_training is not None
    height, width = batch.target_image.shape[-2:]
    believed = []
    if self_training.labels != "store":
        assert models.ema is not None
        logits = _averaged_logits(models.ema, models, batch, config)
        believed.append(most_probable(logits, (height, width)))
    if self_training.labels != "ema":
        assert batch.target_probabilities is not None
        believed.append(most_probable_stored(batch.target_probabilities, (height, width)))
    found = believed[0] if len(believed) == 1 else agreed(*believed)
    threshold = self_training.threshold if self_training.weight == "share" else None
    return weighted(*found, threshold)


def _averaged_logits(ema: Student, models: Models, batch: Batch, config: TrainConfig) -> Tensor:
    images, branch = batch.target_image, models.ema_branch
    with models.half, _autocast(config, batch):
        if branch is None:
            logits: Tensor = ema(images)
            return logits
        return logits_of(branch.logits(ema, ema.see(images), batch.target_features))


def _thing_cells(models: Models, batch: Batch, config: TrainConfig) -> Tensor | None:
    """Mark the cells of the batch that feature distance looks at; None where it is off."""
    if models.imagenet is None or config.feature_distance is None:
        return None
    scale = 1 if models.student.attention is None else CONTEXT_SCALE
    return cells_of(
        batch.source_label,
        int(COARSEST_PX / scale),
        num_classes=models.student.num_classes,
        classes=models.imagenet.classes,
        min_share=config.feature_distance.min_share,
    )


def accumulate(
    losses_of: Callable[[slice], dict[str, Tensor]],
    models: Models,
    batch: Batch,
    config: TrainConfig,
) -> dict[str, Tensor]:
    """Go forward and back over the micro-batches; return the sums of their losses, detached."""
    size = config.micro_batch_size or len(batch)
    totals: dict[str, Tensor] = {}
    for start in range(0, len(batch), size):
        with models.half:
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


def part_of(features: Mapping[str, Tensor], part: slice) -> dict[str, Tensor]:
    """Return the features of some images of a batch."""
    return {level: maps[part] for level, maps in features.items()}
