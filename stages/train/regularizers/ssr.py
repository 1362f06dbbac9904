"""SSR's regulariser, `kind: ssr`: the student's stages attend to the teacher, as published."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from stages.train.regularizers.config import Regularization

if TYPE_CHECKING:  # torch
    from stages.student.student import Student
    from stages.train.regularizers.branch import Branch


class Config(Regularization):
    """Cross-attention of the student's stages to the teacher, as published."""

    summary: ClassVar[str] = "regularised by cached features of a frozen teacher (SSR)"
    two_scales: ClassVar[bool] = True

    kind: Literal["ssr"] = Field(description="Cross-attention to the teacher, as published.")

    def build(self, student: "Student", teacher_channels: Mapping[str, int]) -> "Branch":
        """Build the fusion layers; they have as many heads as the student's stages."""
        from stages.train.regularizers.cross_attention import CrossAttentionBranch

        heads = student.backbone.config.num_attention_heads
        return CrossAttentionBranch(student.channels, teacher_channels, heads, self.levels)
