"""The folder of a run: it belongs to one run, and `run.json` in it says to which."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from stages.train.provenance import differences
from store.atomic import TEMPORARY_SUFFIX, update_bytes
from store.errors import ConfigError
from store.fingerprint import canonical_json

log = logging.getLogger(__name__)

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


def claim(out: Path, identity: Mapping[str, Any], *, fresh: bool, move_aside: bool) -> None:
    """Take a folder for a run; the weights of another one are never overwritten.

    Args:
        out: The folder, whose writer's lock is held.
        identity: All that determines the weights, as JSON values.
        fresh: Move the run that is there to `<out>/replaced/<number>`, even if it is this one.
        move_aside: Do that with another run's alone, instead of refusing.

    Raises:
        ConfigError: If the folder holds another run, and that may not be moved.
    """
    if _unfinished(out).exists():  # a kill interrupted the move of a run
        _move(out)
    noted = _read(out / _NOTE)
    asked = json.loads(canonical_json(identity))
    if (fresh or noted != asked) and any(_weights(out)):
        if not (fresh or move_aside):
            names = [name for name, *_ in differences(asked, noted or {})]
            unknown = "other keys" if noted else "of an earlier version, without run.json"
            other = f"other {', '.join(names[:3])}" if names else unknown
            raise ConfigError(
                f"{out} holds another run ({other}); give another --out, or --fresh, which moves "
                f"that run to {out / _REPLACED}"
            )
        log.warning("%s: the run that was there is now in %s", out, _move(out))
    update_bytes(out / _NOTE, canonical_json(identity))


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


def _read(note: Path) -> Any:  # noqa: ANN401 - what JSON holds
    try:
        noted = json.loads(note.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None
