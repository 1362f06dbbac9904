"""What training holds in memory, from tables and parameters alone; no torch."""

# B batch, K classes, N_i tokens of stage i, C_i its channels, E channels of the head

from dataclasses import dataclass
from typing import Final

from stages.train.config import StudentConfig, TrainConfig
from stages.train.model.architectures import BACKBONES, MiT
from store.spec import stride_of

_FLOAT_BYTES: Final = 4
# What autograd saves, in bytes per number of the map named, *measured* with saved-tensor hooks
# on crops of 256 px: within a third for MiT-B0 to B5.
_SAVED_PER_BLOCK: Final = 100  # per number of a block's tokens (N_i x C_i)
_SAVED_PER_HEAD: Final = {"daformer": 174, "mlp": 34}  # per number of the finest map (N_0 x E)
_SAVED_PER_FUSION: Final = 20  # per number of a stage's tokens and of the teacher's, projected


@dataclass(frozen=True, slots=True)
class TrainMemory:
    """Rough peak of one training step, in bytes.

    Attributes:
        weights: student, its gradients and two moments of Adam, regulariser likewise.
        copies: the EMA model, and the ImageNet backbone of feature distance.
        activations: what the largest forward pass keeps for its backward pass.
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
        config: section `train`.
        num_classes: K.
        teacher_channels: channels of the stored features.
    """
    mit = BACKBONES[config.student.backbone]
    student = student_parameters(config.student, num_classes)
    learned = student + regularizer_parameters(config, teacher_channels)
    copies = student if config.self_training else 0
    if config.feature_distance is not None and config.student.weights != "random":
        copies += backbone_parameters(mit)
    return TrainMemory(
        weights=4 * _FLOAT_BYTES * learned,
        copies=_FLOAT_BYTES * copies,
        activations=_saved_bytes(config, mit, num_classes),
    )


def student_parameters(config: StudentConfig, num_classes: int) -> int:
    """Count the weights of a student."""
    mit, width = BACKBONES[config.backbone], config.head_channels
    joined = len(mit.widths) * width
    embed = sum(channels * width + width for channels in mit.widths)
    classifier = width * num_classes + num_classes
    if config.head == "mlp":
        head = embed + joined * width + 2 * width + classifier
    else:
        branch = joined * width + 2 * width
        depthwise = 9 * joined + 2 * joined
        head = embed + 4 * branch + 3 * depthwise + 9 * joined * width + 2 * width + classifier
    return backbone_parameters(mit) + head


def backbone_parameters(mit: MiT) -> int:
    """Count the weights of a MiT backbone."""
    total, before = 0, 3
    for stage, (width, depth) in enumerate(zip(mit.widths, mit.depths, strict=True)):
        reduction, hidden = mit.reductions[stage], mit.mlp_ratio * width
        kernel = 7 if stage == 0 else 3
        total += kernel**2 * before * width + width + 2 * width + 2 * width  # patches, stage norm
        block = 4 * width + 4 * (width**2 + width)  # norms; query, key, value, projection
        block += 2 * width * hidden + hidden + width + 10 * hidden  # MLP with its convolution
        if reduction > 1:
            block += reduction**2 * width**2 + 3 * width
        total += depth * block
        before = width
    return total


def regularizer_parameters(config: TrainConfig, teacher_channels: int) -> int:
    """Count the weights of the regulariser; none where it is off."""
    if not config.regularizer.on:
        return 0
    widths = BACKBONES[config.student.backbone].widths
    return sum(
        teacher_channels * width + width + 4 * width**2 + width
        for width, level in zip(widths, config.regularizer.levels, strict=True)
        if level is not None
    )


def _saved_bytes(config: TrainConfig, mit: MiT, num_classes: int) -> int:
    """Estimate what one part of the step saves: backbone, head, and head again if enhanced."""
    batch, side = config.batch_size, config.crop_px
    tokens = [(side // (4 << stage)) ** 2 for stage in range(len(mit.widths))]
    blocks = zip(tokens, mit.widths, mit.depths, strict=True)
    backbone = _SAVED_PER_BLOCK * sum(count * width * depth for count, width, depth in blocks)
    head = _SAVED_PER_HEAD[config.student.head] * tokens[0] * config.student.head_channels
    head += 3 * _FLOAT_BYTES * num_classes * side**2  # enlarged logits, their softmax and gradient
    if not config.regularizer.on:
        return batch * (backbone + head)
    fusion = 0
    for count, width, level in zip(tokens, mit.widths, config.regularizer.levels, strict=True):
        if level is not None:
            fusion += _SAVED_PER_FUSION * width * (count + (side // stride_of(level)) ** 2)
    return batch * (backbone + head + fusion + head)
