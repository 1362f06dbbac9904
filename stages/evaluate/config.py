"""Parameters of evaluation; `params.yaml` gives every value (section `evaluate`)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

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
