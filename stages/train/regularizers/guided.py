"""Our own regulariser, `kind: guided`: a branch that reads the teacher where its features lie.

Differs from SSR: cross-attention must learn where to read the teacher, and in short trainings it
may read all places alike (column entropy of runs/health.csv). Here a branch of its own,
`AlignedBranch`, must read the teacher, and what it has learnt reaches the student by pseudo-labels
alone: its average labels the target.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.fields import Fraction
from stages.train.regularizers.config import Regularization

if TYPE_CHECKING:  # torch
    from stages.student.student import Student
    from stages.train.regularizers.branch import Branch


class Config(Regularization):
    """Our own: a branch with teacher features laid onto the student's makes the pseudo-labels."""

    summary: ClassVar[str] = (
        "with pseudo-labels of a branch that reads cached features of a frozen teacher"
    )

    kind: Literal["guided"] = Field(
        description="Our own: a branch with teacher features laid onto the student's makes the "
        "pseudo-labels."
    )
    student_drop: Fraction = Field(
        description="Share of samples whose enhanced pass sees the teacher alone."
    )

    @model_validator(mode="after")
    def _learns_from_both(self) -> Self:
        if self.on and set(self.on) != {"source", "mixed"}:
            raise ValueError(
                f"regularizer.on is {list(self.on)}, but kind guided learns from both: set it to "
                "[source, mixed], or to [] to switch it off"
            )
        return self

    def build(self, student: "Student", teacher_channels: Mapping[str, int]) -> "Branch":
        """Build the branch; its head begins as a copy of the student's."""
        from stages.train.regularizers.aligned_fusion import AlignedBranch

        head = deepcopy(student.head)
        return AlignedBranch(
            student.channels, teacher_channels, self.levels, self.student_drop, head
        )
