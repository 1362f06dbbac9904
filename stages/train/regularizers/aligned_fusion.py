"""Teacher features laid onto the student's, where they lie: no attention has to learn where.

The student's own are dropped for a share of the samples, so that the branch must read the teacher.
It sends no gradient to the student.

# B batch, C channels of a teacher level, C_i student channels of stage i, h w teacher tokens,
# K classes
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from stages.student.student import Pass, Student
from stages.train.regularizers.branch import Branch, Seen, norm


class AlignedFusion(nn.Module):
    """Projects teacher features (C) to a stage's channels (C_i, 1x1) and resizes to its grid."""

    def __init__(self, teacher_channels: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(teacher_channels, channels, 1)

    def forward(self, teacher: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (B, C, h, w) to (B, C_i, *size): bilinear onto finer grids, means onto coarser."""
        if size[0] > teacher.shape[2]:
            return F.interpolate(self.embed(teacher), size, mode="bilinear", align_corners=False)
        aligned: Tensor = self.embed(F.adaptive_avg_pool2d(teacher, size))
        return aligned


class StudentDrop(_DropoutNd):
    """Drops all of the student's features of a share p of the samples, while training.

    Unlike dropout it does not scale up the others: the teacher's features are added to them.
    """

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Zero the maps (B, C_i, H_i, W_i) of some samples, the same ones at every stage."""
        if not self.training or self.p == 0:
            return list(maps)
        kept = (torch.rand(len(maps[0]), 1, 1, 1, device=maps[0].device) >= self.p).to(
            maps[0].dtype
        )
        return [map_ * kept for map_ in maps]


class AlignedBranch(Branch):
    """Fusion of each stage that reads a level, and a head of its own.

    A stage without a level stays as it is; `student_drop` is the share of samples that see the
    teacher alone while training.
    """

    labels_target = True

    def __init__(
        self,
        in_channels: Sequence[int],
        teacher_channels: Mapping[str, int],
        levels: Sequence[str | None],
        student_drop: float,
        head: nn.Module,
    ) -> None:
        super().__init__(levels)
        self.fusion = nn.ModuleDict(
            {
                str(stage): AlignedFusion(teacher_channels[level], in_channels[stage])
                for stage, level in self.levels.items()
            }
        )
        self.drop = StudentDrop(student_drop)
        self.head = head

    def forward(self, student: Sequence[Tensor], teacher: Mapping[str, Tensor]) -> list[Tensor]:
        """Add the teacher to the student's maps, or to nothing where these are dropped."""
        teacher = self.refined(teacher)
        enhanced: list[Tensor] = self.drop([map_.detach() for map_ in student])
        for stage, level in self.levels.items():
            map_ = enhanced[stage]
            added = self.fusion[str(stage)](teacher[level], tuple(map_.shape[2:]))
            enhanced[stage] = map_ + added
        return enhanced

    def logits(self, student: Student, seen: Pass, teacher: Mapping[str, Tensor]) -> Tensor:
        """Classify the enhanced maps by the branch's own head: (B, K, H/4, W/4)."""
        logits: Tensor = self.head(self(seen.features, teacher))
        return logits

    def observe(self, seen: Seen) -> list[RemovableHandle]:
        """Note residual and swap of each stage; there is no attention."""

        @torch.no_grad()
        def note(branch: nn.Module, maps: tuple[Any, ...], enhanced: object) -> None:
            student, teacher = maps[0], self.refined(maps[1])
            for stage, level in self.levels.items():
                map_ = student[stage]  # (B, C_i, H_i, W_i), before some are dropped
                added = self.fusion[str(stage)](teacher[level], tuple(map_.shape[2:]))
                values = {"residual": norm(added) / norm(map_)}
                if len(added) > 1:
                    values["swap"] = norm(added.roll(1, dims=0) - added) / norm(added)
                for name, value in values.items():
                    seen.setdefault(f"{name}_{stage}", []).append(value)

        return [self.register_forward_hook(note)]
