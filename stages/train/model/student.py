"""The student: a MiT backbone and a decode head; all that is left after training.

# B batch, K classes, H W pixels
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import SegformerModel

from stages.train.config import StudentConfig
from stages.train.model.backbone import BACKBONES, build_backbone, stage_features
from stages.train.model.head import DAFormerHead, mlp_head
from stages.train.model.pretrained import load_backbone


class Student(nn.Module):
    """A backbone and a head, with the features between them open to the regulariser.

    Args:
        backbone: As built by `build_backbone`.
        head: `DAFormerHead`, or what `mlp_head` builds.
    """

    def __init__(self, backbone: SegformerModel, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four feature maps, finest first."""
        return tuple(self.backbone.config.hidden_sizes)

    @property
    def num_classes(self) -> int:
        """Channels of the logits."""
        classifier = self.head.get_submodule("classifier")
        assert isinstance(classifier, nn.Conv2d)
        return classifier.out_channels

    def features(self, images: Tensor) -> list[Tensor]:
        """Map normalised images (B, 3, H, W) to maps at strides 4, 8, 16, 32."""
        return stage_features(self.backbone, images)

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Map four feature maps to logits (B, K, H/4, W/4)."""
        logits: Tensor = self.head(features)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits (B, K, H/4, W/4)."""
        return self.classify(self.features(images))


def build_student(config: StudentConfig, *, num_classes: int, seed: int) -> Student:
    """Build a student and load the backbone weights that its configuration names.

    Args:
        config: Architecture and backbone weights.
        num_classes: Channels of the logits.
        seed: Of the random initial weights.

    Returns:
        The student in train mode, on the CPU.

    Raises:
        CheckpointError: If the weights cannot be found, read or fitted.
    """
    mit = BACKBONES[config.backbone]
    with seeded(seed):
        backbone = build_backbone(mit, drop_path=config.drop_path, norm_eps=config.norm_eps)
        head: nn.Module
        if config.head == "daformer":
            width = config.head_channels
            head = DAFormerHead(mit.widths, width, width, num_classes, dropout=config.dropout)
        else:
            head = mlp_head(mit.widths, config.head_channels, num_classes, dropout=config.dropout)
    if config.weights != "random":
        load_backbone(backbone, config.weights)
    return Student(backbone, head).train()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from PyTorch's CPU generator as after `manual_seed(seed)`, then put it back.

    Modules initialise themselves from the global generator; this keeps that to themselves.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
