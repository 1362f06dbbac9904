"""Our own regulariser, `kind: guided`: a branch that reads the teacher where its features lie.

Differs from SSR: cross-attention must learn where to read the teacher, and in short trainings it
hardly reads it (column swap of runs/health.csv). Here features are embedded, resized to the grid of
each stage and added; the student's own are dropped for a share of the samples, so that the branch
must read the teacher; it has a head of its own and sends no gradient to the student. What it has
learnt reaches the student by pseudo-labels alone: the averaged branch labels the target. Nothing of
it is there at inference.

# B batch, C teacher channels, C_i student channels of stage i, h w teacher tokens, K classes
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train.model.student import Student


class AlignedFusion(nn.Module):
    """Projects teacher features to a stage's channels (1x1) and resizes them to its grid.

    Args:
        teacher_channels: C.
        channels: C_i.
    """

    def __init__(self, teacher_channels: int, channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(teacher_channels, channels, 1)

    def forward(self, teacher: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (B, C, h, w) to (B, C_i, *size): bilinear onto finer grids, means onto coarser."""
        if size[0] > teacher.shape[2]:
            return F.interpolate(self.embed(teacher), size, mode="bilinear", align_corners=False)
        aligned: Tensor = self.embed(F.adaptive_avg_pool2d(teacher, size))
        return aligned


class StudentDrop(nn.Module):
    """Drops all of the student's features of a sample, while training.

    Unlike dropout it does not scale up the others: the teacher's features are added to them.

    Args:
        share: Of the samples.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Zero the maps (B, C_i, H_i, W_i) of some samples, the same ones at every stage."""
        if not self.training or self.share == 0:
            return list(maps)
        kept = (torch.rand(len(maps[0]), 1, 1, 1, device=maps[0].device) >= self.share).to(
            maps[0].dtype
        )
        return [map_ * kept for map_ in maps]


class Guide(nn.Module):
    """The branch: fusion of each stage that reads a level, and a head.

    Args:
        in_channels: Channels of the student's stages, finest first.
        teacher_channels: Channels of the teacher's features.
        levels: The teacher level that each stage reads; None leaves a stage as it is.
        student_drop: Share of samples that see the teacher alone while training.
        head: Of the branch alone; a copy of the student's, to begin with.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        teacher_channels: int,
        levels: Sequence[str | None],
        student_drop: float,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.fusion = nn.ModuleDict(
            {
                str(stage): AlignedFusion(teacher_channels, channels)
                for stage, (channels, level) in enumerate(zip(in_channels, levels, strict=True))
                if level is not None
            }
        )
        self.drop = StudentDrop(student_drop)
        self.head = head

    def forward(self, student: Sequence[Tensor], teacher: Mapping[str, Tensor]) -> list[Tensor]:
        """Enhance the student's maps, to which no gradient goes back.

        Args:
            student: Maps (B, C_i, H_i, W_i), finest first.
            teacher: Level -> (B, C, h, w) of the same places.

        Returns:
            Maps of the student's shapes: student (or nothing, where it is dropped) + teacher.
        """
        enhanced: list[Tensor] = self.drop([map_.detach() for map_ in student])
        for stage, level in enumerate(self.levels):
            if level is not None:
                map_ = enhanced[stage]
                size = (map_.shape[2], map_.shape[3])
                enhanced[stage] = map_ + self.fusion[str(stage)](teacher[level], size)
        return enhanced

    def logits(
        self, student: Student, features: Sequence[Tensor], teacher: Mapping[str, Tensor]
    ) -> Tensor:
        """Classify the enhanced maps by the branch's own head: (B, K, H/4, W/4)."""
        logits: Tensor = self.head(self(features, teacher))
        return logits
