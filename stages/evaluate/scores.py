"""Results of an evaluation, as `metrics.json` holds them."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from store.errors import DataError

Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Scores(BaseModel):
    """Of one dataset, in percent; None where a class or a mean is undefined."""

    model_config = ConfigDict(frozen=True)

    miou: Percent
    accuracy: Percent  # correct share of all labelled pixels
    mean_accuracy: Percent | None = None
    images: int = Field(ge=0)
    content: str  # fingerprint of these images and their labels
    subsets: dict[str, Percent | None] = {}  # mean IoU over some of the classes
    iou: Annotated[dict[str, Percent | None], Field(min_length=1)]


class Evaluation(Scores):
    """All of `metrics.json`: the first dataset's scores, and those of all where there are more."""

    teacher_trained: bool | None = None  # False: an UNTRAINED TEACHER
    student: str = Field(min_length=12)  # beginning of its weights' SHA-256
    weights: str = "student"  # or "ema", the averaged model
    domain: str
    split: str
    inference: dict[str, Any] = {}  # how images were seen, where not once and whole
    mean_miou: Percent | None = None  # over the datasets
    datasets: dict[str, Scores] = {}

    @property
    def by_dataset(self) -> Mapping[str, Scores]:
        """Scores of each dataset by name, the first one first."""
        return self.datasets or {f"{self.domain}/{self.split}": self}

    @model_validator(mode="after")
    def _same_rows(self) -> Self:
        for scores in self.datasets.values():
            if scores.iou.keys() != self.iou.keys() or scores.subsets.keys() != self.subsets.keys():
                raise ValueError("datasets have other classes or subsets than the first one")
        return self


def read_scores(run: Path) -> Evaluation:
    """Read the last evaluation of a run.

    Raises:
        DataError: The run was not evaluated, or the file is damaged or of an earlier version.
    """
    path = run / "metrics.json"
    if not path.is_file():
        cure = f"`dvc repro`, or `ssr evaluate --out {run}`"
        if (run / "config.json").is_file():  # of a student without its run, as runs/best
            cure = f"`ssr evaluate --model {run}`"
        raise DataError(f"{path}: there is no evaluation yet; run {cure}")
    try:
        return Evaluation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{path}: is damaged or of an earlier version; run `ssr evaluate` again"
        ) from error


def percent_text(value: float | None) -> str:
    """Write a score in percent; a dash where it is undefined."""
    return "-" if value is None else f"{value:.2f}"


def read_confusion(path: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Read the names of the K classes, and pixels (K, K) by label (row) and prediction (column).

    Raises:
        DataError: The file is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: is missing; run `ssr evaluate`")
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        counts = np.array([row[1:] for row in rows], dtype=np.int64)
        return tuple(header[1:]), counts.reshape(len(header) - 1, len(header) - 1)
    except (ValueError, OverflowError, csv.Error) as error:
        raise DataError(f"{path}: is damaged; run `ssr evaluate` again") from error
