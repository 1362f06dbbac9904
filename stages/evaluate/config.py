"""Parameters of evaluation: section `evaluate`."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from stages.fields import DeviceName, Split, distinct
from stages.prepare.datasets import SourceConfig
from stages.student.config import Inference

Weights = Literal["student", "ema"]

SubsetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class EvaluateConfig(Inference):
    """Section `evaluate`: what the student is measured on, and how."""

    domain: Literal["source", "target"] | None = Field(
        description="Domain that the student is measured on (paper: target); null for none, where "
        "there are `datasets`."
    )
    split: Split = Field(
        description="Split of that domain; its images without label are left out (paper: val)."
    )
    datasets: Mapping[FolderName, SourceConfig] = Field(
        description="Further datasets by name, as in section `prepare`, with the same classes; the "
        "labelled images of their val splits are measured. DVC does not see their files change."
    )
    subsets: Mapping[
        SubsetName, Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(distinct)]
    ] = Field(
        description="Further means of IoU by name, each over the classes that it lists; for a "
        "source that labels not all classes, e.g. mIoU16 and mIoU13 for SYNTHIA."
    )
    weights: Weights = Field(
        description="`ema`: the averaged model that labelled the target (paper: student)."
    )
    pictures: int = Field(
        ge=0,
        le=999,
        description="Pictures of image, label and prediction, spread evenly over each split.",
    )
    device: DeviceName = Field(description="`auto` takes the GPU where there is one.")

    @model_validator(mode="after")
    def _measures_something(self) -> Self:
        if self.domain is None and not self.datasets:
            raise ValueError("domain is null and datasets is empty: name what to measure on")
        for name, dataset in self.datasets.items():
            if dataset.labelled:
                raise ValueError(f"datasets.{name}.labelled is a key of prepare.target: remove it")
        return self
