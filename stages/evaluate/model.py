"""A student that is ready to be used: the network, and what its folder says about its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.evaluate.config import Weights
from stages.evaluate.scores import Evaluation
from stages.prepare.labels import ClassTable
from stages.student.saved import Card, read_card
from stages.student.student import Student, open_student
from store.errors import CheckpointError


@dataclass(frozen=True)
class Model:
    """A student in eval mode on the CPU."""

    folder: Path
    network: Student  # (B, 3, H, W) normalised RGB to logits (B, K, H/4, W/4)
    card: Card
    classes: ClassTable  # in the order of the logits

    @property
    def fit_px(self) -> tuple[int, int] | None:
        """Width and height that images of its domain were scaled to fit in; None keeps their size.

        Its domain is the target where its run had one, even unused.
        """
        data: Mapping[str, Any] = self.card.meta.get("data", {})
        fit_px = data.get("target" if "target" in data else "source", {}).get("fit_px")
        return None if fit_px is None else (fit_px[0], fit_px[1])

    @property
    def crop_px(self) -> int | None:
        """Side of its training crops, None where it does not say."""
        crop_px: int | None = self.card.meta.get("recipe", {}).get("crop_px")
        return crop_px


def open_model(folder: Path) -> Model:
    """Open a student that was trained, imported or exported, from its folder or its run's.

    Raises:
        CheckpointError: There is no student, or it does not say what its classes are.
    """
    folder = student_folder(folder, "student")
    network, card = open_student(folder)
    names, palette = card.meta.get("classes"), card.meta.get("palette")
    if names is None or palette is None or not len(names) == len(palette) == card.num_classes:
        raise CheckpointError(
            f"{folder}/config.json names no classes and colours for the {card.num_classes} logits; "
            "train the student again"
        )
    classes = ClassTable(tuple(names), tuple((r, g, b) for r, g, b in palette))
    return Model(folder, network, card, classes)


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
    student, found = folder / "student", folder / weights
    if weights == "student":
        return student if student.is_dir() else folder
    if not found.is_dir():
        raise CheckpointError(
            f"{folder}: holds no averaged model; training with train.self_training writes one to "
            f"{found} when it ends"
        )
    if student.is_dir() and read_card(student).meta.get("run") != read_card(found).meta.get("run"):
        raise CheckpointError(
            f"{found} is not of the run that made {student}; train again, or give the one you mean "
            "by --model"
        )
    return found


def measured_card(run: Path, scores: Evaluation) -> Card | None:
    """Return the card of the student that an evaluation is of; None if the run has another now.

    Raises:
        CheckpointError: There is no student in the run's folder.
    """
    card = read_card(student_folder(run, "ema" if scores.weights == "ema" else "student"))
    return card if card.weights_sha256.startswith(scores.student) else None
