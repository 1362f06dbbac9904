"""Measuring the student while it trains: on labels of the target, or else of the source."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import read_raw, read_train_ids
from stages.student.inference import predict_image
from stages.student.metrics import ConfusionMatrix, Metrics
from stages.student.student import Student
from stages.train.validation import Validation
from stages.train.wrong_teacher import WrongTeacherTest


def validation_of(
    manifest: Manifest,
    roots: Mapping[Domain, Path],
    measure_branch: WrongTeacherTest | None = None,
) -> Validation | None:
    """Choose what the student is validated on: the labelled `val` images of one domain.

    Args:
        manifest: Its class table must be the student's.
        roots: Folder of each domain.
        measure_branch: What else is measured, of the enhanced branch.

    Returns:
        The target's if there are any, else the source's; None if neither has labelled ones.
    """
    domains: tuple[Domain, ...] = ("target", "source")
    for domain in domains:
        split = manifest.select(domain=domain, split="val")
        records = [record for record in split if record.label is not None]
        if records:
            return Validation(
                measure=partial(mean_iou, records=records, manifest=manifest, roots=roots),
                on=f"{len(records)} images of {domain}/val",
                sees_target_labels=domain == "target",
                measure_branch=measure_branch,
            )
    return None


def mean_iou(
    student: Student,
    *,
    records: Sequence[ImageRecord],
    manifest: Manifest,
    roots: Mapping[Domain, Path],
) -> float:
    """Score a student in eval mode, in percent, as `ssr evaluate` does.

    Raises:
        DataError: No image has a labelled pixel, or a file does not fit the manifest.
    """
    device = next(student.parameters()).device
    matrix = ConfusionMatrix(len(manifest.classes))
    for record in records:
        root = roots[record.domain]
        prediction = predict_image(student, read_raw(record, root), record, device=device)
        matrix.update(prediction, read_train_ids(record, root, manifest.labels[record.domain]))
    return Metrics.of(matrix, manifest.classes.names, images=len(records)).miou
