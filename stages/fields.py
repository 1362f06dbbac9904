"""Types of the values in params.yaml; their bounds keep out what no run can mean, nan included."""

import re
from typing import Annotated, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_T = TypeVar("_T")


class _Boolean:
    """A boolean where none belongs: whatever the type of the key, it is refused."""

    def __init__(self, value: bool) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)


def _no_number(value: object, depth: int = 2) -> object:
    """Mark booleans, also in lists; not in deeper ones, which aliases of YAML make endless."""
    if isinstance(value, list | tuple) and depth:
        return [_no_number(one, depth - 1) for one in value]
    return _Boolean(value) if isinstance(value, bool) else value


class Section(BaseModel):
    """A part of `params.yaml`: strict keys, finite numbers, no change after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, data: object) -> object:
        """Let booleans, which pydantic takes for 0 and 1, fail but where one belongs."""
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        belongs = {name for name, field in fields.items() if field.annotation is bool}
        return {k: v if k in belongs else _no_number(v) for k, v in data.items()}


def _is_printable(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        raise ValueError(f"{text!r} holds a control character; leave it out")
    return text


def _is_path(text: str) -> str:
    from store.files import local_path  # numpy

    local_path(text)
    return text


def distinct(values: tuple[_T, ...]) -> tuple[_T, ...]:
    """Refuse a list that names one twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"names one twice: {list(values)}")
    return values


DeviceName = Literal["auto", "cpu", "cuda"]
Domain = Literal["source", "target", "restyled"]
"""`restyled` is the source in other styles: listed, embedded and stored apart."""

Split = Literal["train", "val"]
Name = Annotated[str, Field(min_length=1), AfterValidator(_is_printable)]
PathText = Annotated[Name, AfterValidator(_is_path)]
"""A path, `~` not yet expanded; names beside paths, as `random`, are texts of this kind, too."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
PositiveInt = Annotated[int, Field(ge=1, le=10_000_000)]
NaturalInt = Annotated[int, Field(ge=0, le=10_000_000)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Cores = Annotated[int, Field(ge=1, le=1024)]
"""Threads or processes."""

Byte = Annotated[int, Field(ge=0, le=255)]
RGB = tuple[Byte, Byte, Byte]

LARGEST_PX: Final = 32_768
SidePx = Annotated[int, Field(ge=1, le=LARGEST_PX)]
WindowPx = Annotated[int, Field(ge=32, le=LARGEST_PX, multiple_of=32)]
"""Side of what the student is given; its coarsest stage has a stride of 32."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, le=1000)]
Weight = Annotated[float, Field(ge=0, le=1000)]
"""Of a loss; 0 switches it off."""
