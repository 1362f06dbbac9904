"""DAFormer's training step ported line by line, as a yardstick: eager, and back once per loss.

What it computes is what `train_step` computes without regulariser (agreement.py measures how far
the gradients are apart). It has what the official code has: a loop over the weights for the EMA
model, softmax attention that writes its scores to memory, a blur of 51 x 51 taps, a graph that is
kept for the feature distance, an optimiser that loops over the weights, and values that the host
asks for. Its functions have the names of ours, by which `--profile` finds both.
"""

# B batch, H W pixels

import numpy as np
import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor, nn
from transformers import SegformerModel

from stages.student.mit import COARSEST_PX, stage_features
from stages.train.adaptation.augment import (
    StrongDraw,
    blur_side,
    denormalise,
    jitter_colors,
    normalise,
)
from stages.train.adaptation.losses import cells_of, feature_distance, segmentation_loss
from stages.train.config import TrainConfig
from stages.train.crops import Batch
from stages.train.models import Models
from stages.train.state import build_optimizer
from stages.train.step import Draws


def prepare_port(models: Models, config: TrainConfig) -> torch.optim.Optimizer:
    """Give the networks explicit attention, and return an optimiser that loops over weights."""
    for network in (models.student, models.ema, models.imagenet):
        if network is not None:
            assert isinstance(network.backbone, SegformerModel)
            network.backbone.set_attn_implementation("eager")
    optimizer = build_optimizer(models.student, None, config.optimizer)
    for group in optimizer.param_groups:
        group.update(fused=False, foreach=False)
    return optimizer


def ported_step(
    models: Models, batch: Batch, draws: Draws, *, config: TrainConfig, iteration: int
) -> dict[str, float]:
    """Add the gradients of one step and move the EMA model; return the losses, read each."""
    student, ema, self_training = models.student, models.ema, config.self_training
    assert ema is not None
    assert self_training is not None
    update_ema(ema, student, min(1 - 1 / (iteration + 1), self_training.ema_decay))
    with torch.no_grad():
        pseudo, weight = pseudo_labels(ema(batch.target_image), batch, self_training.threshold)

    features = student.features(batch.source_image)
    clean = segmentation_loss(student.classify(features), batch.source_label)
    losses = {"clean": clean.item()}
    clean.backward(retain_graph=models.imagenet is not None)  # type: ignore[no-untyped-call]
    if models.imagenet is not None and config.feature_distance is not None:
        with torch.no_grad():
            reference = stage_features(models.imagenet.backbone.stages, batch.source_image)[-1]
        cells = cells_of(
            batch.source_label,
            COARSEST_PX,
            num_classes=student.num_classes,
            classes=models.imagenet.classes,
            min_share=config.feature_distance.min_share,
        )
        distance = config.feature_distance.weight * feature_distance(features[-1], reference, cells)
        losses["feature_distance"] = distance.item()
        distance.backward()  # type: ignore[no-untyped-call]

    images, labels, weights = mix(batch, pseudo, weight, draws)
    images = [augment(image[None], draw) for image, draw in zip(images, draws.mixed, strict=True)]
    logits = student(torch.cat(images))
    mixed = segmentation_loss(logits, torch.stack(labels), torch.stack(weights))
    losses["mix"] = mixed.item()
    mixed.backward()  # type: ignore[no-untyped-call]
    return losses


def update_ema(ema: nn.Module, student: nn.Module, alpha: float) -> None:
    """Move the EMA model, weight by weight."""
    for old, new in zip(ema.parameters(), student.parameters(), strict=True):
        old.data[:] = alpha * old.data + (1 - alpha) * new.data


def pseudo_labels(logits: Tensor, batch: Batch, threshold: float) -> tuple[Tensor, Tensor]:
    """Return labels and their weights, each (B, H, W)."""
    logits = F.interpolate(logits, batch.target_image.shape[-2:], mode="bilinear")
    probability, pseudo = torch.max(torch.softmax(logits, dim=1), dim=1)
    confident = probability.ge(threshold).long() == 1
    share = torch.sum(confident).item() / np.size(np.array(pseudo.cpu()))
    weight = share * torch.ones(probability.shape, device=probability.device)
    return pseudo, weight * batch.target_valid


def mix(batch: Batch, pseudo: Tensor, weight: Tensor, draws: Draws) -> tuple[list[Tensor], ...]:
    """Return images, labels and weights of each mixture."""
    images, labels, weights = [], [], []
    for i in range(len(batch)):
        mask = torch.zeros_like(batch.source_label[i], dtype=torch.float32)
        for class_id in draws.classes[i]:
            mask = mask + (batch.source_label[i] == class_id).float()
        images.append(mask * batch.source_image[i] + (1 - mask) * batch.target_image[i])
        labels.append((mask * batch.source_label[i] + (1 - mask) * pseudo[i]).long())
        weights.append(mask + (1 - mask) * weight[i])
    return images, labels, weights


def augment(image: Tensor, draw: StrongDraw) -> Tensor:
    """Jitter and blur one image (1, 3, H, W)."""
    if draw.jitter is not None:
        image = normalise(jitter_colors(denormalise(image), draw.jitter))
    if draw.sigma_px is not None:
        sides = (blur_side(image.shape[-2]), blur_side(image.shape[-1]))
        sigmas = (draw.sigma_px, draw.sigma_px)
        image = gaussian_blur2d(image, sides, sigmas, "reflect", separable=False)
    return image
