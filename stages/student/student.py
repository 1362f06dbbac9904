"""The student: a MiT backbone and a decode head; all that is left after training.

# B batch, C_i channels of stage i, E embedding channels, K classes, H W pixels
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import SegformerConfig, SegformerModel
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from stages.student.config import STUDENT_FILES, StudentConfig
from stages.student.efficientnet_lite import SIZES, EfficientNetLiteBackbone
from stages.student.mit import BACKBONES, build_backbone, stage_features
from stages.student.saved import Card, read_student
from stages.student.weights import load_backbone
from stages.weight_files import reading

Backbone: TypeAlias = SegformerModel | EfficientNetLiteBackbone

DILATIONS = (1, 6, 12, 18)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, 1, padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)


class SeparableConvNormAct(nn.Sequential):
    """Dilated depthwise 3x3 convolution, then a pointwise one, each with norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(inputs, inputs, 3, dilation=dilation, groups=inputs)
        self.pointwise = ConvNormAct(inputs, outputs, 1)


class DAFormerHead(nn.Module):
    """DAFormer's context-aware head with separable ASPP (arXiv 2111.14887, section 3.2).

    Every map (finest first) is projected to `embed_channels`; each dilation is an ASPP branch of
    `channels`, 1 is a plain 1x1 convolution. Dropout is of whole channels of the bottleneck.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        embed_channels: int,
        channels: int,
        num_classes: int,
        *,
        dropout: float,
        dilations: Sequence[int] = DILATIONS,
    ) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(width, embed_channels) for width in in_channels)
        joined = embed_channels * len(in_channels)
        self.aspp = nn.ModuleList(
            ConvNormAct(joined, channels, 1)
            if dilation == 1
            else SeparableConvNormAct(joined, channels, dilation=dilation)
            for dilation in dilations
        )
        self.bottleneck = ConvNormAct(channels * len(dilations), channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.apply(_initialise)
        _initialise_classifier(self.classifier)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map (B, C_i, H_i, W_i), finest first, to logits (B, K, H_0, W_0)."""
        size = features[0].shape[2:]
        embedded = [
            _resize(_project(map_, linear), size)  # (B, E, H_0, W_0)
            for map_, linear in zip(features, self.embed, strict=True)
        ]
        # Linear layers leave the channels last in memory, where the CPU's dilated depthwise
        # convolutions take three times as long (measured); so the layout is chosen, not inherited.
        layout = _layout_of(self.bottleneck.conv.weight)
        joined = torch.cat(embedded, dim=1).contiguous(memory_format=layout)  # (B, 4E, H_0, W_0)
        context = torch.cat([branch(joined) for branch in self.aspp], dim=1)
        logits: Tensor = self.classifier(self.dropout(self.bottleneck(context)))
        return logits


def mlp_head(
    in_channels: Sequence[int], channels: int, num_classes: int, *, dropout: float
) -> nn.Module:
    """Build SegFormer's own head: transformers' class, so that its weights are plain SegFormer.

    Takes and returns what `DAFormerHead` does; dropout is per element.
    """
    head: nn.Module = SegformerDecodeHead(
        SegformerConfig(
            hidden_sizes=list(in_channels),
            decoder_hidden_size=channels,
            classifier_dropout_prob=dropout,
            num_labels=num_classes,
        )
    )
    head.apply(_initialise)
    classifier = head.get_submodule("classifier")
    assert isinstance(classifier, nn.Conv2d)
    _initialise_classifier(classifier)
    return head


def _project(map_: Tensor, linear: nn.Module) -> Tensor:
    tokens = linear(map_.flatten(2).transpose(1, 2))  # (B, H_i W_i, E)
    projected: Tensor = tokens.transpose(1, 2).unflatten(2, map_.shape[2:])
    return projected


def _layout_of(weight: Tensor) -> torch.memory_format:
    last = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _resize(map_: Tensor, size: torch.Size) -> Tensor:
    if map_.shape[2:] == size:
        return map_
    return F.interpolate(map_, size=size, mode="bilinear", align_corners=False)


def _initialise(module: nn.Module) -> None:
    """Convolutions as mmcv's ConvModule; linear layers keep PyTorch's own."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _initialise_classifier(classifier: nn.Conv2d) -> None:
    assert classifier.bias is not None
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)


class Student(nn.Module):
    """A backbone and a head, with the features between them open to the regulariser.

    Args:
        backbone: Its `stages` are four modules, each of which maps the map of the one before, and
            the first images; `config` has their `hidden_sizes` and `num_attention_heads`.
        head: `DAFormerHead`, or what `mlp_head` builds.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._features: _Features = stage_features
        self._classify: _Classify = run_head

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Student":
        """Load a student that was trained, imported or exported; as `open_student`."""
        return load_student(Path(folder))[0]

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
        return self._features(self.backbone, images)

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Map four feature maps to logits (B, K, H/4, W/4)."""
        return self._classify(self.head, features)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits (B, K, H/4, W/4)."""
        return self.classify(self.features(images))

    def lay_channels_last(self) -> None:
        """Lay out the weights of convolutions with their channels last, and with them the maps.

        Before there is an optimiser, which takes the layout over.
        """
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def recompute_activations(self) -> None:
        """Compute what blocks and head need for their backward pass there, instead of keeping it.

        Results are the same down to the bit: noise is drawn again from the same random state, and
        the second pass through batch norms leaves their averages alone.
        """
        if isinstance(self.backbone, EfficientNetLiteBackbone):
            self._features = recompute_stages
        else:
            self.backbone.activation_checkpointing_enable({"use_reentrant": False})
        self._classify = recompute_head

    def compile_parts(self, backend: str = "inductor") -> None:
        """Run backbone and head through torch.compile, from the next call on.

        Functions are compiled, not modules, so that the names of the weights stay. Not together
        with `recompute_activations`: the compiler chooses itself what to keep.
        """
        self._features = torch.compile(stage_features, backend=backend)
        self._classify = torch.compile(run_head, backend=backend)


_Features = Callable[[Backbone, Tensor], list[Tensor]]
_Classify = Callable[[nn.Module, Sequence[Tensor]], Tensor]


def run_head(head: nn.Module, features: Sequence[Tensor]) -> Tensor:
    """Map features to logits."""
    logits: Tensor = head(features)
    return logits


def recompute_head(head: nn.Module, features: Sequence[Tensor]) -> Tensor:
    """Map features to logits, keeping nothing in between for the backward pass."""
    return _recomputed(head, features)


def recompute_stages(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Run the four stages, keeping nothing between them for the backward pass."""
    features: list[Tensor] = []
    for stage in backbone.stages:
        images = _recomputed(stage, images)
        features.append(images)
    return features


def _recomputed(module: nn.Module, given: Tensor | Sequence[Tensor]) -> Tensor:
    result: Tensor = checkpoint(
        module,
        given,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), still_averages(module)),
    )
    return result


@contextmanager
def still_averages(module: nn.Module) -> Iterator[None]:
    """Let batch norms move copies of their running averages and counters."""
    kinds = nn.BatchNorm2d | nn.SyncBatchNorm
    norms = [norm for norm in module.modules() if isinstance(norm, kinds)]
    held = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, held, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, held, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


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
    with seeded(seed):
        backbone = _build_backbone(config, seed)
        widths, width = backbone.config.hidden_sizes, config.head_channels
        head: nn.Module
        if config.head == "daformer":
            head = DAFormerHead(widths, width, width, num_classes, dropout=config.dropout)
        else:
            head = mlp_head(widths, width, num_classes, dropout=config.dropout)
    if config.weights != "random" and config.backbone in BACKBONES:
        load_backbone(backbone, config.weights)
    return Student(backbone, head).train()


def _build_backbone(config: StudentConfig, seed: int) -> Backbone:
    """Build a MiT with random weights, or EfficientNet-Lite with those it shall have."""
    if config.backbone in SIZES:
        return EfficientNetLiteBackbone(SIZES[config.backbone], weights=config.weights, seed=seed)
    assert config.norm_eps is not None, "StudentConfig requires it of a MiT"
    mit = BACKBONES[config.backbone]
    return build_backbone(mit, drop_path=config.drop_path, norm_eps=config.norm_eps)


def open_student(folder: Path) -> tuple[Student, Card]:
    """Load a student that `save_student` wrote, in eval mode on the CPU, and its card.

    Raises:
        CheckpointError: If the folder holds no student, or a damaged one.
    """
    card, tensors = read_student(folder)
    fault = "holds weights of another architecture than config.json beside it says"
    with reading(folder / STUDENT_FILES[1], fault, "train the student again"):
        student = build_student(card.student, num_classes=card.num_classes, seed=0)
        student.load_state_dict(tensors)
    return student.eval(), card


def load_student(folder: Path) -> tuple[Student, dict[str, Any]]:
    """Load a student as `open_student` does, and the `meta` that was saved with it."""
    student, card = open_student(folder)
    return student, card.meta


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from PyTorch's CPU generator as after `manual_seed(seed)`, then put it back.

    Modules initialise themselves from the global generator; this keeps that to themselves.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
