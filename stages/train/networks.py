"""The networks of a training run: student, EMA model, regulariser and ImageNet reference."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDropPath

from stages.student.student import Student
from stages.train.config import TrainConfig
from stages.train.regularizers.branch import Branch

Network = TypeVar("Network", bound=nn.Module)


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
    """The networks of a run; None where the configuration does without.

    Attributes:
        student: What is trained and handed over.
        ema: Its slowly moving copy, which makes pseudo-labels.
        regularizer: The enhanced branch.
        imagenet: What feature distance compares with.
        ema_branch: The branch's slowly moving copy; it makes the pseudo-labels where there is one.
    """

    student: Student
    ema: Student | None
    regularizer: Branch | None
    imagenet: ImageNetReference | None
    ema_branch: Branch | None = None

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
        for branch in (self.regularizer, self.ema_branch):
            if branch is not None:
                branch.to(device)
        if self.imagenet is not None:
            self.imagenet.backbone.to(device)


def without_noise(ema: Network) -> Network:
    """Switch off what is random in the EMA model, and its gradients.

    The rest stays in train mode: its batch norms use the statistics of the target batch and move
    their own running averages, which nothing reads (spec section 3.1).
    """
    ema.train().requires_grad_(False)
    for module in ema.modules():
        if isinstance(module, _DropoutNd | SegformerDropPath):
            module.eval()
    return ema
