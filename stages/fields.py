"""The base class and the field types that sections of `params.yaml` share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
NaturalInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of `params.yaml`: strict keys, no change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")
