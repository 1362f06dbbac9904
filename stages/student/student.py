"""The student: a backbone and a decode head; all that is left after training.

Where the configuration has them, SeMask's layers are between the stages of the backbone, and HRDA
sees images at two scales.

# B batch, C_i channels of stage i, E embedding channels, K classes, H W pixels
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import SegformerModel

from stages.efficientnet_lite import STUDENTS, EfficientNetLiteBackbone, pretrained, untrained
from stages.student import hrda
from stages.student.config import IMAGENET, REIN, STUDENT_FILES, StudentConfig
from stages.student.heads import DAFormerHead, mlp_head
from stages.student.mit import BACKBONES, COARSEST_PX, build_backbone, stage_features
from stages.student.query_head import QueryHead
from stages.student.rein_vfm import ReinBackbone, grid_of
from stages.student.saved import Card, frozen_folder, read_student
from stages.student.semask import semantic_features, semantic_layers
from stages.student.weights import load_backbone
from stages.weight_files import reading
from store.errors import CheckpointError

StagedBackbone: TypeAlias = SegformerModel | EfficientNetLiteBackbone
"""Its `stages` are four modules, the first of images, each other one of the map before it."""


class Pass(NamedTuple):
    """What a student makes of images before it classifies them."""

    features: Sequence[Tensor]  # (B, C_i, H_i, W_i), finest first; with HRDA the context's
    class_maps: Sequence[Tensor] = ()  # (B, K, H_i, W_i) of SeMask's layers
    detail: Sequence[Tensor] = ()  # as `features`, of HRDA's detail crop
    box: hrda.Box | None = None  # of the detail crop, in pixels of the images


class Student(nn.Module):
    """A backbone and a head, with the features between them open to the regulariser.

    Args:
        backbone: Its `config` has `hidden_sizes` and `num_attention_heads`.
        head: `DAFormerHead`, what `mlp_head` builds, or `QueryHead`.
        semantic: What `semantic_layers` builds; None is a plain MiT.
        attention: HRDA's; None sees images at one scale.
        detail_px: Side of HRDA's detail windows; None sees the detail at once.
    """

    def __init__(
        self,
        backbone: StagedBackbone | ReinBackbone,
        head: nn.Module,
        semantic: nn.ModuleList | None = None,
        attention: hrda.ScaleAttention | None = None,
        detail_px: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.semantic = semantic
        self.attention = attention
        self.detail_px = detail_px
        self._recomputed: set[nn.Module] = set()

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Student":
        """Load a student that was trained, imported or exported; as `open_student`."""
        return load_student(Path(folder))[0]

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the four feature maps, finest first."""
        return tuple(self.backbone.config.hidden_sizes)

    @property
    def frozen_sha256(self) -> str | None:
        """Hash of the frozen network of `rein_vfm`, which is not part of the state."""
        backbone = self.backbone
        return backbone.frozen.sha256 if isinstance(backbone, ReinBackbone) else None

    @property
    def num_classes(self) -> int:
        """Channels of the logits."""
        return len(self.head.get_parameter("classifier.weight"))

    def see(self, images: Tensor, box: hrda.Box | None = None, begun: Tensor | None = None) -> Pass:
        """Map normalised images (B, 3, H, W) to what training looks at.

        HRDA, with images of sides that are multiples of 8, sees the detail in `box`; None is all of
        it. Of `rein_vfm`, `begun` (B, C, rows, columns) was stored of the images, whose pixels are
        not looked at then.
        """
        if begun is not None:
            assert isinstance(self.backbone, ReinBackbone), "StudentConfig refuses it"
            grid = grid_of(images)
            return Pass(self.backbone.finish(self.backbone.unpack(begun, grid), grid))
        if self.attention is None:
            return self._see(images)
        box = box or (0, images.shape[2], 0, images.shape[3])
        context, detail = hrda.features_of(self._see, images, box)
        return context._replace(detail=detail.features, box=box)

    def _see(self, images: Tensor, *, class_maps: bool = True) -> Pass:
        if isinstance(self.backbone, ReinBackbone):
            return Pass(self.backbone(images))
        stages = [partial(self._run, stage) for stage in self.backbone.stages]
        if self.semantic is None or not (class_maps or self.semantic[0].attends):
            return Pass(stage_features(stages, images))
        return Pass(*semantic_features(stages, self.semantic, images))

    def _run(self, module: nn.Module, given: Tensor | Sequence[Tensor]) -> Tensor:
        """Run a stage or the head."""
        result: Tensor
        if module in self._recomputed:
            result = checkpoint(
                module,
                given,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _still_averages(module)),
            )
        else:
            result = module(given)
        return result

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Map normalised images (B, 3, H, W), as they are, to maps at strides 4, 8, 16, 32."""
        return self._see(images, class_maps=False).features

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Map four feature maps to logits (B, K, H/4, W/4)."""
        return self._run(self.head, features)

    def decode(self, seen: Pass) -> Tensor | hrda.Fused:
        """Classify what was seen: logits (B, K, H/4, W/4), with HRDA those of both scales."""
        if self.attention is None:
            return self.classify(seen.features)
        assert seen.box is not None, "see() gives one"
        return hrda.classify(self.classify, self.attention, seen.features, seen.detail, seen.box)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits (B, K, H/4, W/4).

        With HRDA sides are filled with zeros to multiples of 8 and at least 64 px, half of which
        the backbone sees as context, and the detail is seen in windows that overlap.
        """
        if self.attention is None:
            return self.classify(self.features(images))
        side, (height, width) = self.detail_px, images.shape[2:]
        right, bottom = (
            max(-each % hrda.ALIGN_PX, 2 * COARSEST_PX - each) for each in (width, height)
        )
        filled = F.pad(images, (0, right, 0, bottom))
        fused = hrda.predict(
            self.features,
            self.classify,
            self.attention,
            filled,
            detail_px=None if side is None else (side, side),
        )
        stride = hrda.LOGIT_STRIDE_PX
        return fused.logits[..., : -(-height // stride), : -(-width // stride)]

    def recompute_activations(self) -> None:
        """Compute what blocks and head need for their backward pass there, instead of keeping it.

        Results are the same down to the bit: noise is drawn again from the same random state, and
        the second pass through batch norms leaves their averages alone.
        """
        self._recomputed = {self.head}
        if isinstance(self.backbone, EfficientNetLiteBackbone):
            self._recomputed.update(self.backbone.stages)
        elif isinstance(self.backbone, SegformerModel):  # its blocks do it themselves
            self.backbone.activation_checkpointing_enable({"use_reentrant": False})

    def compile_parts(self, backend: str = "inductor") -> None:
        """Run stages and head through torch.compile, from the next call on.

        Not together with `recompute_activations`: the compiler chooses itself what to keep.
        """
        assert not isinstance(self.backbone, ReinBackbone), "TrainConfig refuses it"
        for part in (*self.backbone.stages, *(self.semantic or ()), self.head):
            part.compile(backend=backend)


@contextmanager
def _still_averages(module: nn.Module) -> Iterator[None]:
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
    """Build a student, in train mode on the CPU, with the backbone weights that `config` names.

    The other initial weights follow from `seed`.

    Raises:
        CheckpointError: If the weights cannot be found, read or fitted.
        ConfigError: If a part that is asked for does not fit the backbone.
    """
    with seeded(seed):
        backbone = _build_backbone(config, seed)
        widths = backbone.config.hidden_sizes
        head = _build_head(config, backbone, num_classes)
        semantic = attention = detail_px = None
        if (semask := config.semask) is not None:
            semantic = semantic_layers(
                widths, num_classes, window=semask.window, attends=semask.attention
            )
        if config.hrda is not None:
            width, detail_px = config.hrda.attention_channels, config.hrda.detail_px
            attention = hrda.ScaleAttention(
                widths, num_classes, channels=width, dropout=config.dropout
            )
    if config.weights != "random" and config.backbone in BACKBONES:
        load_backbone(backbone, config.weights)
    return Student(backbone, head, semantic, attention, detail_px).train()


def _build_backbone(config: StudentConfig, seed: int) -> StagedBackbone | ReinBackbone:
    """Build a MiT with random weights, or another backbone with those it shall have."""
    if config.rein is not None:
        return ReinBackbone(Path(config.weights).expanduser(), config.rein)
    if config.backbone in STUDENTS:
        size = STUDENTS[config.backbone]
        network = untrained(size, seed)
        if config.weights == IMAGENET:  # copied, as `pretrained` keeps the package's file open
            network.load_state_dict(pretrained(size).state_dict())
        return EfficientNetLiteBackbone(network)
    assert config.norm_eps is not None, "StudentConfig requires it of a MiT"
    mit = BACKBONES[config.backbone]
    return build_backbone(mit, drop_path=config.drop_path, norm_eps=config.norm_eps)


def _build_head(
    config: StudentConfig, backbone: StagedBackbone | ReinBackbone, num_classes: int
) -> nn.Module:
    widths, width = backbone.config.hidden_sizes, config.head_channels
    if config.head == "daformer":
        return DAFormerHead(widths, width, width, num_classes, dropout=config.dropout)
    if config.head == "mlp":
        return mlp_head(widths, width, num_classes, dropout=config.dropout)
    assert isinstance(backbone, ReinBackbone), "StudentConfig requires it of mask2former"
    assert config.rein is not None
    return QueryHead(widths, width, num_classes, queries=config.rein.tokens, tokens=backbone.rein)


def open_student(folder: Path) -> tuple[Student, Card]:
    """Load a student that `save_student` wrote, in eval mode on the CPU, and its card.

    Raises:
        CheckpointError: If the folder holds no student, or a damaged one.
    """
    card, tensors = read_student(folder)
    fault = "holds weights of another architecture than config.json beside it says"
    with reading(folder / STUDENT_FILES[1], fault, "train the student again"):
        config, found = card.student, None
        if config.backbone == REIN:
            found = frozen_folder(folder, card)
            config = config.model_copy(update={"weights": str(found)})
        student = build_student(config, num_classes=card.num_classes, seed=0)
        if student.frozen_sha256 != card.frozen_sha256:
            raise CheckpointError(
                f"{found} is not the frozen network that {folder} was trained on (its sha256 "
                f"differs); put that one at {folder / 'frozen'}"
            )
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
