"""Parameters of evaluation and of prediction.

`params.yaml` gives every value of evaluation (section `evaluate`); prediction, which needs no
params file, has its values from the command line.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from stages.prepare.config import Domain, Split


class EvaluateConfig(BaseModel):
    """Section `evaluate`: what the student is measured on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: Domain = Field(description="Domain that the student is measured on (paper: target).")
    split: Split = Field(
        description="Split of that domain; its images without label are left out (paper: val)."
    )
    pictures: int = Field(
        ge=0,
        le=999,
        description="Pictures of image, label and prediction, spread evenly over the split.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="`auto` takes the GPU where there is one."
    )


class PredictConfig(BaseModel):
    """How images are predicted that belong to no dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit_px: tuple[PositiveInt, PositiveInt] | Literal["model"] | None = Field(
        description="Width and height that images are scaled to fit in; `model` is as the student "
        "was trained, null keeps their size."
    )
    window_px: Annotated[int, Field(ge=32, multiple_of=32)] | None = Field(
        description="Side of windows that slide over the scaled image; null sees all of it at once."
    )
    batch: PositiveInt = Field(description="Images of one size that are predicted together.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        description="`auto` takes the GPU where there is one."
    )
