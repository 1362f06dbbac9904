"""The part of a configuration that all regularisers share."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stages.fields import Name, NaturalInt, PositiveInt, Section, distinct

if TYPE_CHECKING:  # torch
    from stages.student.student import Student
    from stages.train.regularizers.branch import Branch


class RefineConfig(Section):
    """Rein's low-rank tokens (arXiv 2312.04265) on stored features; ours in that.

    Published Rein refines inside its frozen network, block by block: its numbers say nothing here.
    """

    tokens: PositiveInt = Field(description="Tokens that features are compared with (paper 100).")
    rank: NaturalInt = Field(
        description="Rank of their matrix; 0 learns the tokens themselves (paper 16)."
    )


class Regularization(Section):
    """Which images have an enhanced pass, and which teacher level each stage reads."""

    summary: ClassVar[str]  # what a model card says of a student that was trained with it
    two_scales: ClassVar[bool] = False  # whether it enhances both scales of HRDA

    on: Annotated[tuple[Literal["source", "mixed"], ...], AfterValidator(distinct)] = Field(
        description="Images with an enhanced pass: `source`, `mixed`; `[]` is plain DAFormer."
    )
    levels: tuple[Name | None, Name | None, Name | None, Name | None] = Field(
        description="Level that each of the four stages reads, as the stores name it; null leaves "
        "a stage as it is."
    )

    refine: RefineConfig | None = Field(
        default=None,
        description="Low-rank tokens that refine the teacher's features before they are read, "
        "after Rein; null is off.",
    )

    @model_serializer(mode="wrap")
    def _without_what_is_off(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is off: fingerprints are as before there was such."""
        return {key: value for key, value in dump(self).items() if value is not None}

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if self.on and not self.used_levels:
            raise ValueError("regularizer.levels are all null; set regularizer.on: [] instead")
        if self.refine and not self.on:
            raise ValueError(
                "regularizer.on is [], so refine has nothing to refine; set it to null"
            )
        return self

    @property
    def used_levels(self) -> tuple[str, ...]:
        """Levels that training reads, each once; none where the regulariser is off."""
        return tuple(dict.fromkeys(level for level in self.levels if level)) if self.on else ()

    @abstractmethod
    def build(self, student: "Student", teacher_channels: Mapping[str, int]) -> "Branch":
        """Build the network that reads the teacher, from PyTorch's global generator."""
