"""The networks of a training run: student, EMA model, regulariser and ImageNet reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from stages.train.config import TrainConfig
from stages.train.model.regularizer import Regularizer
from stages.train.model.student import Student


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

    def settle(self, config: TrainConfig, device: torch.device) -> None:
        """Move to the device and set up how `config` wants to compute; before the optimiser."""
        students = [network for network in (self.student, self.ema) if network is not None]
        for network in students:
            network.to(device)
            if config.channels_last:
                network.lay_channels_last()
            if config.compile:
                network.compile_parts()
        if config.activation_checkpointing:
            self.student.recompute_activations()
        if self.regularizer is not None:
            self.regularizer.to(device)
        if self.imagenet is not None:
            self.imagenet.backbone.to(device)


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
