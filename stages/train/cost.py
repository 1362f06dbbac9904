"""What training holds in memory and computes, from tables and parameters alone; no torch."""

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
    branch = regularizer_parameters(config, num_classes, teacher_channels)
    learned = student + branch
    copies = student if config.self_training else 0
    if config.self_training and config.regularizer.kind == "guided":
        copies += branch
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


def regularizer_parameters(config: TrainConfig, num_classes: int, teacher_channels: int) -> int:
    """Count the weights of the regulariser, a guide's head among them; none where it is off."""
    if not config.regularizer.on:
        return 0
    mit = BACKBONES[config.student.backbone]
    guided = config.regularizer.kind == "guided"
    head = student_parameters(config.student, num_classes) - backbone_parameters(mit)
    return guided * head + sum(
        teacher_channels * width + width + (0 if guided else 4 * width**2 + width)
        for width, level in zip(mit.widths, config.regularizer.levels, strict=True)
        if level is not None
    )


def step_macs(config: TrainConfig, *, num_classes: int, teacher_channels: int) -> int:
    """Count the multiply-accumulates of one training step with self-training under way.

    A backward pass counts twice its forward pass. For MiT-B5 at 512 px, batch 2: 1.9e12 without
    regulariser, 2.9e12 with it. Norms, activations, softmax and resizing are left out.

    Args:
        config: section `train`.
        num_classes: K.
        teacher_channels: channels of the stored features.
    """
    mit = BACKBONES[config.student.backbone]
    backbone = backbone_macs(mit, config.crop_px)
    head = head_macs(config.student, config.crop_px, num_classes)
    learned, alone = backbone + head, 0  # the source; what is computed without going back
    if config.self_training is not None:
        learned += backbone + head  # mixed
        alone += backbone + head  # EMA model
        if config.regularizer.on and config.regularizer.kind == "guided":
            alone += fusion_macs(config, teacher_channels)  # on its features; its own head is idle
    if config.masking is not None:
        learned += backbone + head
    if config.feature_distance is not None and config.student.weights != "random":
        alone += backbone
    learned += len(config.regularizer.on) * (head + fusion_macs(config, teacher_channels))
    return config.batch_size * (3 * learned + alone)


def backbone_macs(mit: MiT, side_px: int) -> int:
    """Count the multiply-accumulates of a MiT backbone for one square image."""
    total, before = 0, 3
    for stage, (width, depth) in enumerate(zip(mit.widths, mit.depths, strict=True)):
        tokens = (side_px // (4 << stage)) ** 2
        keys = tokens // mit.reductions[stage] ** 2
        hidden = mit.mlp_ratio * width
        total += tokens * (7 if stage == 0 else 3) ** 2 * before * width  # patches
        block = 2 * tokens * width**2 + 2 * keys * width**2  # query, projection; key, value
        block += 2 * tokens * keys * width  # scores and what they weigh
        block += tokens * hidden * (2 * width + 9)  # MLP with its convolution
        if mit.reductions[stage] > 1:
            block += tokens * width**2  # a convolution whose kernel is its stride
        total += depth * block
        before = width
    return total


def head_macs(config: StudentConfig, side_px: int, num_classes: int) -> int:
    """Count the multiply-accumulates of a decode head for one square image."""
    widths, width = BACKBONES[config.backbone].widths, config.head_channels
    total = sum(
        (side_px // (4 << stage)) ** 2 * channels * width for stage, channels in enumerate(widths)
    )
    joined = len(widths) * width
    cell = width * num_classes
    if config.head == "mlp":
        cell += joined * width
    else:
        cell += 4 * joined * width + 3 * 9 * joined + 9 * joined * width
    return int(total + (side_px // 4) ** 2 * cell)


def fusion_macs(config: TrainConfig, teacher_channels: int) -> int:
    """Count the multiply-accumulates of the regulariser for one crop."""
    widths, total = BACKBONES[config.student.backbone].widths, 0
    for stage, (width, level) in enumerate(zip(widths, config.regularizer.levels, strict=True)):
        if level is None:
            continue
        tokens = (config.crop_px // (4 << stage)) ** 2
        keys = (config.crop_px // stride_of(level)) ** 2
        if config.regularizer.kind == "guided":
            total += min(tokens, keys) * width * teacher_channels
            continue
        total += keys * width * (teacher_channels + 2 * width)  # embedding; key, value
        total += 2 * tokens * width**2 + 2 * tokens * keys * width
    return total


def _saved_bytes(config: TrainConfig, mit: MiT, num_classes: int) -> int:
    """Estimate what one part of the step saves: backbone, head, and head again if enhanced."""
    batch, side = config.micro_batch_size or config.batch_size, config.crop_px
    tokens = [(side // (4 << stage)) ** 2 for stage in range(len(mit.widths))]
    blocks = [
        c * w for c, w, d in zip(tokens, mit.widths, mit.depths, strict=True) for _ in range(d)
    ]
    again = config.activation_checkpointing  # then inputs are kept, and one block or head at a time
    backbone = _FLOAT_BYTES * sum(blocks) if again else _SAVED_PER_BLOCK * sum(blocks)
    head = _SAVED_PER_HEAD[config.student.head] * tokens[0] * config.student.head_channels
    head += 3 * _FLOAT_BYTES * num_classes * side**2  # enlarged logits, their softmax and gradient
    if not config.regularizer.on:
        return batch * (backbone + head)
    fusion = 0
    for count, width, level in zip(tokens, mit.widths, config.regularizer.levels, strict=True):
        if level is not None:
            fusion += _SAVED_PER_FUSION * width * (count + (side // stride_of(level)) ** 2)
    return batch * (backbone + head + fusion + (0 if again else head))
