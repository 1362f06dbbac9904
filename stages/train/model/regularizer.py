"""SSR's regulariser: student tokens attend to teacher tokens, stage by stage.

# B batch, C teacher channels, C_i student channels of stage i, N student tokens, M teacher tokens
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:  # which loads official weights of this module's
    from stages.train.model.student import Student


class CrossAttention(nn.Module):
    """Multi-head attention of student tokens (queries) over teacher tokens (keys, values).

    No norm, position code, gate or dropout; only the output projection has a bias (SSR official
    code, `ssr.py`).

    Args:
        channels: Width of the student's stage.
        heads: Attention heads; divides `channels`.

    Raises:
        ValueError: If `heads` does not divide `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)

    def project(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project to queries (B, heads, N, C_i/heads), keys and values (B, heads, M, C_i/heads).

        Args:
            student: (B, N, C_i) tokens.
            teacher: (B, M, C_i) embedded tokens.
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


class Regularizer(nn.Module):
    """Enhance student feature maps by teacher features (SSR, arXiv 2401.14686; spec section 4.2).

    Student and teacher grids need not match: nothing is resized and no position is coded.

    Args:
        in_channels: Channels of the student's stages, finest first.
        teacher_channels: Channels of the teacher's features.
        heads: Attention heads per stage.
        levels: The teacher level that each stage reads; None leaves a stage as it is.

    Raises:
        ValueError: If the heads of a stage do not divide its channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        teacher_channels: int,
        heads: Sequence[int],
        levels: Sequence[str | None],
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.embed = nn.ModuleDict()
        self.fusion = nn.ModuleDict()
        stages = zip(in_channels, heads, levels, strict=True)
        for stage, (channels, stage_heads, level) in enumerate(stages):
            if level is not None:
                self.embed[str(stage)] = nn.Linear(teacher_channels, channels)
                self.fusion[str(stage)] = CrossAttention(channels, stage_heads)

    def forward(self, student: Sequence[Tensor], teacher: Mapping[str, Tensor]) -> list[Tensor]:
        """Enhance the maps whose stage reads a level; the others pass unchanged.

        Args:
            student: Maps (B, C_i, H_i, W_i), finest first.
            teacher: Level -> (B, C, h, w) in the student's dtype.

        Returns:
            Maps of the student's shapes: student + attention output.
        """
        enhanced = []
        for stage, (map_, level) in enumerate(zip(student, self.levels, strict=True)):
            if level is None:
                enhanced.append(map_)
                continue
            tokens = self.embed[str(stage)](_tokens(teacher[level]))  # (B, M, C_i)
            read = self.fusion[str(stage)](_tokens(map_), tokens)  # (B, N, C_i)
            enhanced.append(map_ + read.transpose(1, 2).unflatten(2, map_.shape[2:]))
        return enhanced

    def logits(
        self, student: "Student", features: Sequence[Tensor], teacher: Mapping[str, Tensor]
    ) -> Tensor:
        """Classify the enhanced maps by the student's own head: (B, K, H/4, W/4)."""
        return student.classify(self(features, teacher))


def _tokens(map_: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C), row by row."""
    return map_.flatten(2).transpose(1, 2)
