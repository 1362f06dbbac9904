"""The part of a configuration that all regularisers share."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.fields import Level, Section
from store.spec import LEVELS

if TYPE_CHECKING:  # torch
    from stages.student.student import Student
    from stages.train.regularizers.branch import Branch

Part = Literal["source", "mixed"]


class Regularization(Section):
    """Which images have an enhanced pass, and which teacher level each stage reads.

    Attributes:
        summary: What a model card says of a student that was trained with it.
    """

    summary: ClassVar[str]

    on: tuple[Part, ...] = Field(
        description="Images with an enhanced pass: `source`, `mixed`; `[]` is plain DAFormer."
    )
    levels: tuple[Level | None, Level | None, Level | None, Level | None] = Field(
        description="Level that each of the four stages reads; null leaves a stage as it is."
    )

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if len(set(self.on)) != len(self.on):
            raise ValueError(f"regularizer.on names a part twice: {list(self.on)}")
        if self.on and not self.used_levels:
            raise ValueError("regularizer.levels are all null; set regularizer.on: [] instead")
        return self

    @property
    def used_levels(self) -> tuple[Level, ...]:
        """Levels that training reads, finest first; none where the regulariser is off."""
        wanted = {level for level in self.levels if level is not None} if self.on else set()
        return tuple(level for level in LEVELS if level in wanted)

    @abstractmethod
    def build(self, student: "Student", teacher_channels: int) -> "Branch":
        """Build the network that reads the teacher, from PyTorch's global generator."""
