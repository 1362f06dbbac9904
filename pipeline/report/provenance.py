"""What was run: parameters, versions and hashes, and what does not belong together."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.current import demand_current_manifest, demand_current_stores
from pipeline.params import Params
from pipeline.report.section import Section, section
from stages.evaluate.model import measured_card, student_folder
from stages.evaluate.scores import Evaluation
from stages.prepare.manifest import Manifest
from stages.train.model.saved import read_card
from stages.train.provenance import INCIDENTAL, differences

_PATHS = ("init", "student.weights")
"""Keys that hold folders of a machine."""


@dataclass(frozen=True)
class StudentPart:
    """The trained student.

    Attributes:
        weights: Digest of its weights, shortened.
        run: Fingerprint of the run that made it: parameters, data, features, weights and code.
        backbone: Of the student.
        head: Likewise.
        start: What its backbone held at the very beginning; None where nobody knows.
        read_features: Whether training read a teacher's; None where nobody knows.
        teacher_trained: False for an UNTRAINED TEACHER.
        iterations: Steps of the recipe; None for a student from elsewhere.
        changed: Keys of the recipe that differ from what is asked for.
    """

    weights: str
    run: str
    backbone: str
    head: str
    start: str | None
    read_features: bool | None
    teacher_trained: bool | None
    iterations: int | None
    changed: tuple[str, ...]


def read_student(run: Path, params: Params) -> StudentPart:
    """Read what is noted beside the student of a run, or in a student's own folder.

    Raises:
        CheckpointError: There is no student.
    """
    card = read_card(student_folder(run, "student") if run.is_dir() else run / "student")
    noted = card.meta.get("recipe")
    recipe = noted if isinstance(noted, dict) else {}
    asked = params.train.model_dump(mode="json", exclude=INCIDENTAL)
    trained = card.meta.get("teacher_trained")
    return StudentPart(
        weights=card.weights_sha256[:12],
        run=str(card.meta.get("run", "")),
        backbone=card.student.backbone,
        head=card.student.head,
        start=card.meta.get("weights"),
        read_features=trained is not None if "teacher_trained" in card.meta else None,
        teacher_trained=trained,
        iterations=recipe.get("iterations"),
        changed=tuple(
            f"train.{name}: {value} is asked for, {noted} when it was trained"
            for name, value, noted in differences(asked, recipe)
            if name not in _PATHS
        ),
    )


def at_odds(
    params: Params,
    run: Path,
    *,
    manifest: Path,
    listed: Section[Manifest],
    index: Path,
    scores: Evaluation | None,
) -> tuple[str, ...]:
    """Say what on the page does not belong together, or not to the parameters."""
    found = []
    if manifest.is_file():
        current = listed.then(lambda known: demand_current_manifest(params, known, manifest))
        found.append(current.missing)
    if index.is_file():
        found.append(section(lambda: demand_current_stores(params, index)).missing)
    if scores is not None:
        found.append(section(lambda: _measured_student(run, scores)).content or "")
    return tuple(filter(None, found))


def _measured_student(run: Path, scores: Evaluation) -> str:
    if measured_card(run, scores) is not None:
        return ""
    return "The evaluation below is of another student than the present one: run `ssr evaluate`."
