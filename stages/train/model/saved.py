"""A student on disk: `model.safetensors` and a `config.json` that says what it is."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from stages.train.config import StudentConfig
from stages.train.model.student import Student, build_student
from store.atomic import write_bytes, write_text
from store.errors import CheckpointError

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"


class _Card(BaseModel):
    """What `config.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["ssr-student/1"]
    student: StudentConfig
    num_classes: int = Field(ge=1)
    weights_sha256: str
    meta: dict[str, Any]


def save_student(
    student: Student, folder: Path, *, config: StudentConfig, meta: dict[str, Any]
) -> None:
    """Write a student so that `load_student` brings it back.

    Each file is replaced atomically, `config.json` last; it carries the digest of the weights, so
    that a crash between the two is noticed when loading.

    Args:
        student: Parameters and buffers are written as they are, from any device.
        folder: Made where it does not exist; a student in it is replaced.
        config: What the student was built from.
        meta: JSON values to keep beside it: class names, palette, provenance.
    """
    tensors = {name: tensor.contiguous().cpu() for name, tensor in student.state_dict().items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    card = _Card(
        format="ssr-student/1",
        # the weights are here now: what they started from is no part of the architecture
        student=config.model_copy(update={"weights": "random"}),
        num_classes=student.num_classes,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        meta=meta,
    )
    write_bytes(folder / _WEIGHTS, weights)
    write_text(folder / _CONFIG, card.model_dump_json(indent=2) + "\n")


def load_student(folder: Path) -> tuple[Student, dict[str, Any]]:
    """Load a student that `save_student` wrote.

    Args:
        folder: Of `config.json` and `model.safetensors`.

    Returns:
        The student in eval mode on the CPU, and the `meta` that was saved with it.

    Raises:
        CheckpointError: If the folder holds no student, or a damaged one.
    """
    card = _read_card(folder / _CONFIG)
    path = folder / _WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; train the student again")
    weights = path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != card.weights_sha256:
        raise CheckpointError(
            f"{path} is not the file that {_CONFIG} beside it was written for (its sha256 differs);"
            " restore it or train the student again"
        )
    student = build_student(card.student, num_classes=card.num_classes, seed=0)
    try:
        student.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} is a checkpoint of another architecture than {_CONFIG} beside it says; train "
            f"the student again ({reason})"
        ) from error
    return student.eval(), card.meta


def demand_classes(meta: Mapping[str, Any], wanted: Sequence[str], *, origin: str) -> None:
    """Refuse a student of other classes, or of another order: equal counts say little.

    Args:
        meta: As `load_student` returned it.
        wanted: Names in the order of the train ids.
        origin: Where the student is from, for the message.

    Raises:
        CheckpointError: The classes differ.
    """
    for train_id, (trained, name) in enumerate(zip_longest(meta["classes"], wanted)):
        if trained != name:
            raise CheckpointError(
                f"{origin}: class {train_id} of the student is {trained or 'none'}, of the "
                f"manifest {name or 'none'}; choose a student that was trained on these classes"
            )


def _read_card(path: Path) -> _Card:
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; run `ssr train`, or give another student's folder"
        )
    try:
        return _Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise CheckpointError(
            f"{path} describes no student of this project ({where}: {fault['msg']}); "
            "give the folder of a student that was trained"
        ) from error
