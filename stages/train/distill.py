"""Distillation: before the task, the student's stages learn the features that are stored.

A store makes the teacher free, and so the target takes part as the source does; no label is read.
First and not beside the task, as the two losses conflict (GKD, arXiv 2603.02554, which runs its
teacher and sees no target). The passes are in `stages.train.step`: the student sees crops with
jitter and blur; features are of clean ones.

# B batch, C channels of a teacher level, C_i student channels of stage i, N = h w teacher tokens
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.train.config import DistillConfig
from stages.train.regularizers.aligned_fusion import AlignedFusion
from store.ledger import ChannelStatistics
from store.read import FeatureReader

LEAST_STD = 1e-3
"""Least standard deviation of a channel, as a share of its level's largest: dividing by less would
magnify rounding."""

Moments = tuple[Tensor, Tensor]
"""Mean and standard deviation of each channel, (C,) each."""


def moments_of(readers: Iterable[FeatureReader], level: str) -> Moments:
    """Return mean and standard deviation of all stored tokens of a level, over both domains.

    Raises:
        StoreError: The ledger of a store is damaged.
    """
    found = ChannelStatistics.merge(reader.statistics(level) for reader in readers)
    assert found is not None, "an open store has tokens"
    std = np.maximum(found.std, LEAST_STD * found.std.max())
    std[std == 0] = 1
    return torch.from_numpy(found.mean).float(), torch.from_numpy(std).float()


class Retrieval(nn.Module):
    """Attention of student tokens over the teacher's, which returns the teacher's own tokens.

    Values are not learned and no position is coded: a student token that knows nothing gets the
    mean of the crop, and gets its own place only where it knows what the teacher sees there.
    """

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.query = AlignedFusion(channels, channels)
        self.key = nn.Conv2d(teacher_channels, channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Ask with a map (B, C_i, H_i, W_i) for tokens (B, C, h, w), for each of these places."""
        size = (teacher.shape[2], teacher.shape[3])
        maps = self.query(student, size), self.key(teacher), teacher
        query, key, value = (map_.flatten(2).transpose(1, 2) for map_ in maps)  # (B, N, C_i or C)
        read = F.scaled_dot_product_attention(query, key, value.to(query.dtype))
        return read.transpose(1, 2).reshape(teacher.shape)


class Regression(nn.Module):
    """The teacher's tokens as a stage predicts them: projected, on the level's grid."""

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.project = AlignedFusion(channels, teacher_channels)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Map (B, C_i, H_i, W_i) to the shape of the teacher's (B, C, h, w)."""
        predicted: Tensor = self.project(student, tuple(teacher.shape[2:]))
        return predicted


class Distiller(nn.Module):
    """The loss of distillation; nothing of it is left in the student.

    Each stage, of `in_channels`, learns its level, whose tokens are standardised by its moments;
    None leaves a stage out.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        levels: Sequence[str | None],
        moments: Mapping[str, Moments],
        config: DistillConfig,
    ) -> None:
        super().__init__()
        self.levels = {str(stage): level for stage, level in enumerate(levels) if level}
        self.is_cosine = config.loss == "cosine"
        build = Regression if config.kind == "regress" else Retrieval
        self.stages = nn.ModuleDict(
            {
                stage: build(in_channels[int(stage)], len(moments[level][0]))
                for stage, level in self.levels.items()
            }
        )
        for stage, level in self.levels.items():
            for name, values in zip(("mean", "std"), moments[level], strict=True):
                self.register_buffer(f"{name}_{stage}", values.view(-1, 1, 1))

    def forward(
        self, student: Sequence[Tensor], teacher: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare maps (B, C_i, H_i, W_i) with level -> (B, C, h, w) of the same places.

        Returns:
            Mean loss of the stages; and the share of the teacher's variance that each explains,
            `explained_i`: 1 - squared error / variance of the batch's tokens.
        """
        losses, explained = [], {}
        for stage, level in self.levels.items():
            mean, std = self.get_buffer(f"mean_{stage}"), self.get_buffer(f"std_{stage}")
            wanted = (teacher[level].float() - mean) / std
            found = self.stages[stage](student[int(stage)], wanted).float()
            scale = wanted.shape[1]
            if self.is_cosine:  # half the squared distance of directions is 1 - cosine
                wanted, found, scale = F.normalize(wanted), F.normalize(found), 2
            error = (found - wanted).square().sum(1)  # (B, h, w)
            losses.append(error.mean() / scale)
            if self.is_cosine:
                # no length is learned: one factor for all tokens, which explains most
                fitted = (found * wanted).detach().sum() / found.detach().square().sum() * found
                error = (fitted - wanted).square().sum(1)
            spread = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
            explained[f"explained_{stage}"] = 1 - error.detach().sum() / spread
        return torch.stack(losses).mean(), explained
