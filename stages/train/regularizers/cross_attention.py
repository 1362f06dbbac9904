"""SSR's regulariser: student tokens attend to teacher tokens, stage by stage.

# B batch, C channels of a teacher level, C_i student channels of stage i, N student tokens,
# M teacher tokens
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from stages.train.regularizers.branch import Branch, Seen, norm

QUERIES = 64
"""Student tokens per image that `observe` looks at."""


class CrossAttention(nn.Module):
    """Multi-head attention of student tokens (queries) over teacher tokens (keys, values).

    No norm, position code, gate or dropout; only the output projection has a bias (SSR official
    code, `ssr.py`).
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        assert channels % heads == 0, (channels, heads)
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project (B, N, C_i) and embedded (B, M, C_i) tokens to queries, keys and values.

        These are (B, heads, N, C_i/heads) and (B, heads, M, C_i/heads).
        """
        key, value = self.kv(teacher).chunk(2, dim=-1)
        return self._split(self.q(student)), self._split(key), self._split(value)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return what each student token reads from the teacher, (B, N, C_i)."""
        read = F.scaled_dot_product_attention(*self.project(student, teacher))
        output: Tensor = self.proj(read.transpose(1, 2).flatten(2))
        return output

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class CrossAttentionBranch(Branch):
    """Enhance student feature maps by teacher features (SSR, arXiv 2401.14686).

    Student and teacher grids need not match: nothing is resized and no position is coded. A stage
    without a level stays as it is.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        teacher_channels: Mapping[str, int],
        heads: Sequence[int],
        levels: Sequence[str | None],
    ) -> None:
        super().__init__(levels)
        self.embed, self.fusion = nn.ModuleDict(), nn.ModuleDict()
        for stage, level in self.levels.items():
            channels = in_channels[stage]
            self.embed[str(stage)] = nn.Linear(teacher_channels[level], channels)
            self.fusion[str(stage)] = CrossAttention(channels, heads[stage])

    def forward(self, student: Sequence[Tensor], teacher: Mapping[str, Tensor]) -> list[Tensor]:
        """Add the attention's output to the maps whose stage reads a level; others pass."""
        enhanced, teacher = list(student), self.refined(teacher)
        for stage, level in self.levels.items():
            map_ = student[stage]
            tokens = self.embed[str(stage)](_tokens(teacher[level]))  # (B, M, C_i)
            read = self.fusion[str(stage)](_tokens(map_), tokens)  # (B, N, C_i)
            enhanced[stage] = map_ + read.transpose(1, 2).unflatten(2, map_.shape[2:])
        return enhanced

    def observe(self, seen: Seen) -> list[RemovableHandle]:
        """Note residual, attention entropy and swap of each stage."""
        return [
            fusion.register_forward_hook(partial(_observe, stage, seen))
            for stage, fusion in self.fusion.items()
        ]


def _tokens(map_: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C), row by row."""
    return map_.flatten(2).transpose(1, 2)


@torch.no_grad()
def _observe(
    stage: str, seen: Seen, fusion: CrossAttention, tokens: tuple[Tensor, ...], read: Tensor
) -> None:
    student, teacher = tokens  # (B, N, C_i), (B, M, C_i)
    every = max(1, student.shape[1] // QUERIES)
    some, read_by_some = student[:, ::every], read[:, ::every].float()
    values = {
        "residual": norm(read) / norm(student),
        "entropy": _entropy(fusion, some, teacher),
    }
    if len(student) > 1:
        of_another = fusion.forward(some, teacher.roll(1, dims=0)).float()  # without this hook
        values["swap"] = norm(of_another - read_by_some) / norm(read_by_some)
    for name, value in values.items():
        seen.setdefault(f"{name}_{stage}", []).append(value)


def _entropy(fusion: CrossAttention, student: Tensor, teacher: Tensor) -> Tensor:
    query, key, _ = fusion.project(student, teacher)  # (B, heads, N or M, C_i / heads)
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(-2, -1) / math.sqrt(query.shape[-1])
    probability = scores.softmax(dim=-1)  # (B, heads, N, M)
    entropy: Tensor = torch.special.entr(probability).sum(dim=-1).mean()
    return entropy / math.log(max(2, teacher.shape[1]))
