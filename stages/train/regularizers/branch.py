"""The network of a regulariser, as the training step uses it.

# B batch, C channels of a teacher level, C_i student channels of stage i, K classes
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stages.student.hrda import ALIGN_PX, Fused, crop_tokens
from stages.student.rein import LowRankTokens
from stages.student.rein_vfm import ReinBackbone
from stages.student.student import Pass, Student
from store.errors import ConfigError

Seen = dict[str, list[Tensor]]
"""Column of `runs/health.csv` -> its value in each enhanced pass, 0-d tensors on the device."""


class Branch(nn.Module):
    """Reads the teacher while training; nothing of it is there at inference.

    The layers that read for stage i are `embed.i` and `fusion.i`. Parameters below `head` learn as
    the student's head does, all others as `optimizer.regularizer_lr_factor` says.
    """

    labels_target: ClassVar[bool] = False  # its average makes the pseudo-labels with the EMA model
    fusion: nn.ModuleDict  # by the number of the stage

    def __init__(self, levels: Sequence[str | None]) -> None:
        super().__init__()
        self.levels = {stage: level for stage, level in enumerate(levels) if level is not None}
        self.refiner: LowRankTokens | None = None

    def add_refiner(self, tokens: int, rank: int, teacher_channels: Mapping[str, int]) -> None:
        """Refine the teacher's features before they are read, a layer for each level.

        Raises:
            ConfigError: If the levels differ in their channels.
        """
        channels, *others = set(teacher_channels.values())
        if others:
            raise ConfigError(
                f"train.regularizer.refine: levels of {channels} and {others[0]} channels cannot "
                "share its maps; read levels of one width, or set it to null"
            )
        self.refiner = LowRankTokens(channels, len(teacher_channels), tokens=tokens, rank=rank)

    def refined(self, teacher: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the maps (B, C, h, w) refined, where there is a refiner."""
        if self.refiner is None:
            return teacher
        levels = enumerate(sorted(teacher))
        return {name: self.refiner.refine_map(teacher[name], layer) for layer, name in levels}

    @abstractmethod
    def forward(self, student: Sequence[Tensor], teacher: Mapping[str, Tensor]) -> list[Tensor]:
        """Enhance the student's maps (B, C_i, H_i, W_i), finest first.

        `teacher` is level -> (B, C, h, w) of the same places, in the student's dtype.
        """

    def logits(self, student: Student, seen: Pass, teacher: Mapping[str, Tensor]) -> Tensor | Fused:
        """Classify what was seen, enhanced, by the student's own head: (B, K, H/4, W/4).

        With HRDA both scales are enhanced, the detail by the tokens that its box touches. That is
        ours: SSR is published for one scale.
        """
        enhanced = seen._replace(features=self(seen.features, teacher))
        if seen.box is not None:
            height, width = seen.features[0].shape[2:]
            image_px = (ALIGN_PX * height, ALIGN_PX * width)
            inside = {k: crop_tokens(seen.box, map_, image_px) for k, map_ in teacher.items()}
            enhanced = enhanced._replace(detail=self(seen.detail, inside))
        return student.decode(enhanced)

    @abstractmethod
    def observe(self, seen: Seen) -> list[RemovableHandle]:
        """Hook up what notes columns of `stages.train.monitor` in each forward pass, detached."""


@contextmanager
def observed(regularizer: Branch | None, student: Student | None = None) -> Iterator[Seen]:
    """Collect what fusion and tokens do in the block; forward passes outside of it cost nothing."""
    seen: Seen = {}
    hooks: list[RemovableHandle] = []
    if regularizer is not None:
        hooks += regularizer.observe(seen)
        if regularizer.refiner is not None:
            hooks.append(_observe_tokens(regularizer.refiner, seen, "rein"))
    backbone = None if student is None else student.backbone
    if isinstance(backbone, ReinBackbone) and backbone.rein is not None:
        hooks.append(_observe_tokens(backbone.rein, seen, "student_rein"))
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook)
        yield seen


def _observe_tokens(refiner: LowRankTokens, seen: Seen, name: str) -> RemovableHandle:
    """Hook up what notes the columns of tokens in each forward pass."""

    @torch.no_grad()
    def note(_: nn.Module, given: tuple[Tensor, int], refined: Tensor) -> None:
        features, layer = given
        for what, value in {
            "scale": refiner.scale.detach().clone(),
            "delta": norm(refined - features) / norm(features),
            "dropped": refiner.shares(features, layer)[..., 0].float().mean(),
        }.items():
            seen.setdefault(f"{name}_{what}", []).append(value)

    return refiner.register_forward_hook(note)


def norm(values: Tensor) -> Tensor:
    """Return the Euclidean norm in float32, 0-d."""
    total: Tensor = torch.linalg.vector_norm(values.float())
    return total
