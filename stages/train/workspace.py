"""The files of a run: what it reads, the folder that it owns, and all that determines it.

The folder belongs to one run, and `run.json` in it says to which.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stages.prepare.manifest import Domain
from stages.student.config import IMAGENET, STUDENT_FILES
from stages.train.config import TrainConfig
from store.atomic import TEMPORARY_SUFFIX, read_bytes, update_bytes
from store.errors import ConfigError
from store.files import Url
from store.fingerprint import canonical_json, sha256_of_file
from store.index import labels_beside

log = logging.getLogger(__name__)

TRAINING_VERSION: Final = 1
"""Raise it when a change of code changes the weights of the same parameters and data."""

INCIDENTAL: Final = {
    "device",
    "threads",
    "workers",
    "prefetch",
    "activation_checkpointing",
    "matmul",
    "cuda_graphs",
    "log_every",
    "log_to",
    "checkpoint_every",
    "validate_every",
}
"""Keys that change no weight, or its rounding alone: a run goes on with others."""

CHECKPOINT: Final = "checkpoint.pt"
STUDENTS: Final = ("student", "ema", "best")
_NOTE: Final = "run.json"
_REPLACED: Final = "replaced"
_OTHERS: Final = (
    *(_NOTE, "curves.csv", "health.csv", "validation.csv", "live", "tensorboard", "costs.jsonl"),
    # what evaluation and report make of the run
    *("metrics.json", "per_class.csv", "confusion.csv", "confusion.png", "pictures", "datasets"),
    "report.html",
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the inputs of training are."""

    manifest: Path
    index: Path  # of the current stores; unread where no features are
    stores: Url
    roots: Mapping[Domain, Path]  # folders of the images

    @property
    def restyled(self) -> Path:
        """The manifest of restyled images, unread unless training or validation asks for them."""
        return self.manifest.with_name("restyled.parquet")

    @property
    def labels(self) -> Path:
        """The index of the target's labels, unread unless self-training asks for them."""
        return labels_beside(self.index)


def claim(out: Path, identity: Mapping[str, Any], *, fresh: bool, move_aside: bool) -> None:
    """Take a folder, whose writer's lock is held, for the run of this identity.

    The weights of another run are never overwritten: `fresh` moves a run that is there to
    `<out>/replaced/<number>`, `move_aside` only another one's.

    Raises:
        ConfigError: If the folder holds another run, and that may not be moved.
    """
    if _unfinished(out).exists():  # a kill interrupted the move of a run
        _move(out)
    try:
        noted = json.loads(read_bytes(out / _NOTE))
    except (FileNotFoundError, ValueError, RecursionError):
        noted = None
    asked = json.loads(canonical_json(identity))
    if (fresh or noted != asked) and any(_weights(out)):
        if not (fresh or move_aside):
            known = noted if isinstance(noted, dict) else {}
            names = [name for name, *_ in differences(asked, known)]
            raise ConfigError(
                f"{out} holds another run (other {', '.join(names[:3]) or 'keys'}); "
                f"give another --out, or --fresh, which moves that run to {out / _REPLACED}"
            )
        log.warning("%s: the run that was there is now in %s", out, _move(out))
    update_bytes(out / _NOTE, canonical_json(identity))


def differences(
    asked: Mapping[str, Any], noted: Mapping[str, Any], at: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield dotted keys that two nested tables share with different values, and both values."""
    for key in asked:
        if key not in noted:
            continue
        value, other = asked[key], noted[key]
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from differences(value, other, f"{at}{key}.")
        elif value != other:
            yield f"{at}{key}", value, other


def digests_of_start(config: TrainConfig) -> dict[str, str]:
    """Hash the files of `train.init` and `train.student.weights`.

    The names in the parameters stay when a file behind them changes; so this goes into the
    fingerprint of a run, and by `ssr train --hash-start` into a file that DVC compares.

    Returns:
        Path, or `imagenet` -> SHA-256; empty for `random` and for a Hugging Face id: pin it by
        downloading it.
    """
    weights = config.student.weights
    named = [name for name in (weights, config.init) if name and name != IMAGENET]
    paths = [Path(name).expanduser() for name in named]
    files = [file for path in paths for file in _files_of(path)]
    digests = {str(file): sha256_of_file(file) for file in sorted(files) if file.is_file()}
    if weights == IMAGENET:
        from stages.efficientnet_lite import STUDENTS, weight_file  # torch

        if installed := weight_file(STUDENTS[config.student.backbone]):
            digests[IMAGENET] = sha256_of_file(installed)
    return digests


def _files_of(path: Path) -> list[Path]:
    """List what a start is read from: a student's folder may hold metrics and pictures besides."""
    if path.is_file():
        return [path]
    student = [path / name for name in STUDENT_FILES]
    if not all(file.is_file() for file in student):
        return list(path.glob("*"))
    return [*student, *path.glob("preprocessor_config.json")]  # of a frozen network


def _weights(out: Path) -> Iterator[Path]:
    """Yield the checkpoint and the students; a folder without config.json is not a student."""
    if (out / CHECKPOINT).is_file():
        yield out / CHECKPOINT
    yield from (out / name for name in STUDENTS if (out / name / "config.json").is_file())


def _move(out: Path) -> Path:
    """Move the run of a folder to a place of its own in it, all or, after a kill, the rest."""
    place = _unfinished(out)
    place.mkdir(parents=True, exist_ok=True)
    for path in (*_weights(out), *(out / name for name in _OTHERS)):
        if path.is_symlink():  # a relative one would point elsewhere from there
            (place / path.name).unlink(missing_ok=True)
            (place / path.name).symlink_to(path.resolve())
            path.unlink()
        elif path.exists():
            path.rename(place / path.name)
    numbers = [int(each.name) for each in place.parent.iterdir() if each.name.isdecimal()]
    return place.rename(place.parent / str(1 + max(numbers, default=0)))


def _unfinished(out: Path) -> Path:
    return out / _REPLACED / f"run{TEMPORARY_SUFFIX}"
