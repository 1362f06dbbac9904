"""A student that is ready to be used: the network, and what its folder says about its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stages.evaluate.config import Weights
from stages.evaluate.scores import Evaluation
from stages.prepare.labels import ClassTable
from stages.student.config import StudentConfig
from stages.student.saved import Card, read_card
from stages.student.student import Student, open_student
from store.errors import CheckpointError

STUDENT: Final[Weights] = "student"
"""Folder of the student in the folder of a run; that of the averaged model is `ema`."""


@dataclass(frozen=True)
class Model:
    """A student in eval mode on the CPU.

    Attributes:
        folder: Where it is from.
        network: (B, 3, H, W) normalised RGB to logits (B, K, H/4, W/4).
        config: Its architecture.
        classes: Names and colours in the order of the logits.
        meta: What was saved with it.
        weights_sha256: Of its weight file.
    """

    folder: Path
    network: Student
    config: StudentConfig
    classes: ClassTable
    meta: Mapping[str, Any]
    weights_sha256: str

    @property
    def domain(self) -> str:
        """The domain whose images it is for: the target where its run had one, even unused."""
        return "target" if "target" in self.meta.get("data", {}) else "source"

    @property
    def fit_px(self) -> tuple[int, int] | None:
        """Width and height that its images were scaled to fit in; None keeps their size."""
        fit_px = self.meta.get("data", {}).get(self.domain, {}).get("fit_px")
        return None if fit_px is None else (fit_px[0], fit_px[1])

    @property
    def crop_px(self) -> int | None:
        """Side of its training crops, None where it does not say."""
        crop_px: int | None = self.meta.get("recipe", {}).get("crop_px")
        return crop_px


def open_model(folder: Path) -> Model:
    """Open a student that was trained, imported or exported.

    Args:
        folder: Of the student, or of the run that has one.

    Raises:
        CheckpointError: There is no student, or it does not say what its classes are.
    """
    folder = student_folder(folder, STUDENT)
    network, card = open_student(folder)
    return Model(
        folder=folder,
        network=network,
        config=card.student,
        classes=_classes(card, folder),
        meta=card.meta,
        weights_sha256=card.weights_sha256,
    )


def student_folder(folder: Path, weights: Weights) -> Path:
    """Find the student in the folder of a run; a student's own folder is itself.

    Raises:
        CheckpointError: There is no such folder, or no averaged model of the same run in it.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: there is no such folder; give one that `ssr train`, `ssr import` or "
            "`ssr export` wrote"
        )
    if (folder / "config.json").is_file():
        return folder
    if weights == STUDENT:
        return folder / STUDENT if (folder / STUDENT).is_dir() else folder
    if not (folder / weights).is_dir():
        raise CheckpointError(
            f"{folder}: holds no averaged model; training with train.self_training writes one to "
            f"{folder / weights} when it ends"
        )
    if (folder / STUDENT).is_dir():
        runs = [read_card(folder / name).meta.get("run") for name in (STUDENT, weights)]
        if runs[0] != runs[1]:
            raise CheckpointError(
                f"{folder / weights} is not of the run that made {folder / STUDENT}; train again, "
                "or give the one you mean by --model"
            )
    return folder / weights


def measured_card(run: Path, scores: Evaluation) -> Card | None:
    """Return the card of the student that an evaluation is of; None if the run has another now.

    Raises:
        CheckpointError: There is no student in the run's folder.
    """
    card = read_card(student_folder(run, "ema" if scores.weights == "ema" else STUDENT))
    return card if card.weights_sha256.startswith(scores.student) else None


def _classes(card: Card, folder: Path) -> ClassTable:
    names, palette = card.meta.get("classes"), card.meta.get("palette")
    if names is None or palette is None or not len(names) == len(palette) == card.num_classes:
        raise CheckpointError(
            f"{folder}/config.json names no classes and colours for the {card.num_classes} logits; "
            "train the student again"
        )
    return ClassTable(tuple(names), tuple((r, g, b) for r, g, b in palette))
