"""Estimate what training holds in memory, from its networks on PyTorch's meta device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor, nn

from stages.student.student import build_student
from stages.train.config import TrainConfig
from store.spec import stride_of

_FLOAT_BYTES: Final = 4
_SAVED_PER_INPUT: Final = 25
"""Numbers that a block of the backbone saves per number of its input, about, *measured*."""
_SAVED_PER_FUSION: Final = 20
"""Bytes per number of a stage's tokens and of the teacher's, projected; *measured* likewise.

Its attention is fused and keeps no scores, which the meta device would.
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """Rough peak of one training step, in bytes.

    Attributes:
        weights: Student, its gradients and two moments of Adam, regulariser likewise.
        copies: The EMA models, and the ImageNet backbone of feature distance.
        activations: What the largest forward pass keeps for its backward pass.
    """

    weights: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.copies + self.activations


def train_memory(config: TrainConfig, *, num_classes: int, teacher_channels: int) -> TrainMemory:
    """Estimate the peak; rough, as allocators, kernels and workspaces add to it.

    Args:
        config: Section `train`.
        num_classes: Of the logits.
        teacher_channels: Channels of the stored features.
    """
    batch, side_px = config.micro_batch_size or config.batch_size, config.crop_px
    drawn = config.student.model_copy(update={"weights": "random"})
    branch = None
    with torch.device("meta"):
        student = build_student(drawn, num_classes=num_classes, seed=0)
        images = torch.empty(batch, 3, side_px, side_px)
        features, backbone = _saved(student, lambda: student.features(images))
        logits, head = _saved(student, lambda: student.classify(features))
        if config.regularizer.on:
            branch = config.regularizer.build(student, teacher_channels)
    head += 3 * _FLOAT_BYTES * logits.numel() * 4**2  # enlarged, their softmax and gradient
    if config.activation_checkpointing:  # inputs are kept, and one head at a time
        activations = backbone // _SAVED_PER_INPUT + head
    else:
        activations = backbone + head + (0 if branch is None else head)
    for maps, level in zip(features, config.regularizer.levels, strict=True):
        if branch is not None and level is not None:
            teacher_numbers = batch * maps.shape[1] * (side_px // stride_of(level)) ** 2
            activations += _SAVED_PER_FUSION * (maps.numel() + teacher_numbers)
    learned = _count(student) + _count(branch)
    copies = _count(student) if config.self_training else 0
    if config.self_training and branch is not None and branch.labels_target:
        copies += _count(branch)
    if config.feature_distance is not None and config.student.weights != "random":
        copies += _count(student.backbone)
    return TrainMemory(
        weights=4 * _FLOAT_BYTES * learned,
        copies=_FLOAT_BYTES * copies,
        activations=activations,
    )


def _count(network: nn.Module | None) -> int:
    return 0 if network is None else sum(each.numel() for each in network.parameters())


def _saved(network: nn.Module, forward: Callable[[], T]) -> tuple[T, int]:
    """Run a forward pass; return its result and the bytes that autograd keeps beside weights."""
    weights = {each.untyped_storage()._cdata for each in network.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    beside = kept.keys() - weights
    return result, sum(kept[storage].untyped_storage().nbytes() for storage in beside)
