"""What the report says of the evaluation: scores, what is taken for what, pictures."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report.features import Features
from pipeline.report.inline import drawing, photo
from pipeline.report.section import Section, section
from stages.evaluate.pictures import read_triptych
from stages.prepare.manifest import Manifest
from store.errors import DataError, SSRError


@dataclass(frozen=True)
class Dataset:
    """Scores on one dataset, in percent; None where a class or a mean is undefined.

    Attributes:
        name: As `metrics.json` names it.
        images: How many were measured.
        miou: Mean IoU.
        accuracy: Correct share of all labelled pixels.
        mean_accuracy: Mean of the classes' accuracies.
        subsets: Means over some classes.
        iou: By class.
    """

    name: str
    images: int
    miou: float | None
    accuracy: float | None
    mean_accuracy: float | None
    subsets: dict[str, float | None]
    iou: dict[str, float | None]


@dataclass(frozen=True)
class Confusion:
    """What is taken for what: a row per label that occurs, shares of its pixels in percent."""

    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class PictureRow:
    """One image as data URIs: image, label, prediction, teacher features or why there are none."""

    image_id: str
    image: str
    label: str
    prediction: str
    features: Section[str]


@dataclass(frozen=True)
class Results:
    """The last evaluation.

    Attributes:
        datasets: The first is what the run adapts to, unless configured otherwise.
        classes: Names, in the order of their ids.
        weights: `student` or `ema`.
        student: Digest of the weights that were measured, shortened.
        inference: What differed from one whole pass; empty where nothing did.
        confusion: Of the first dataset, or why there is none.
        pictures: Some images of it.
    """

    datasets: tuple[Dataset, ...]
    classes: tuple[str, ...]
    weights: str
    student: str
    inference: dict[str, Any]
    confusion: Section[Confusion]
    pictures: Section[tuple[PictureRow, ...]]


def read_results(run: Path, manifest: Manifest | None, features: Section["Features"]) -> Results:
    """Read what `ssr evaluate` left in a run's folder.

    Args:
        run: The folder.
        manifest: The images; None where there is none.
        features: The stores, for the pictures, or why there are none.

    Raises:
        DataError: The run was not evaluated, or a file is damaged.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise DataError(f"{path}: there is no evaluation yet; run `ssr evaluate`")
    try:
        metrics = json.loads(path.read_text())
        first = f"{metrics['domain']}/{metrics['split']}"
        datasets = metrics.get("datasets", {first: metrics})
        return Results(
            datasets=tuple(_dataset(name, each) for name, each in datasets.items()),
            classes=tuple(metrics["iou"]),
            weights=metrics["weights"],
            student=metrics["student"],
            inference=metrics.get("inference", {}),
            confusion=section(lambda: _confusion(run / "confusion.csv")),
            pictures=section(lambda: _pictures(run / "pictures", manifest, features)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged; run `ssr evaluate` again") from error


def _dataset(name: str, scores: dict[str, Any]) -> Dataset:
    return Dataset(
        name=name,
        images=int(scores["images"]),
        miou=scores["miou"],
        accuracy=scores["accuracy"],
        mean_accuracy=scores["mean_accuracy"],
        subsets=dict(scores.get("subsets", {})),
        iou=dict(scores["iou"]),
    )


def _confusion(path: Path) -> Confusion:
    if not path.is_file():
        raise DataError(f"{path}: is missing; run `ssr evaluate`")
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        counts = np.array([row[1:] for row in rows], dtype=np.int64)
        counts = counts.reshape(len(rows), len(header) - 1)
    except ValueError as error:
        raise DataError(f"{path}: is damaged; run `ssr evaluate` again") from error
    totals = counts.sum(axis=1, keepdims=True)
    percents = 100 * counts / np.maximum(totals, 1)
    return Confusion(
        classes=tuple(header[1:]),
        rows=tuple(
            (row[0], tuple(shares.tolist()))
            for row, shares, total in zip(rows, percents, totals, strict=True)
            if total > 0
        ),
    )


def _pictures(
    folder: Path, manifest: Manifest | None, features: Section["Features"]
) -> tuple[PictureRow, ...]:
    paths = sorted(folder.glob("[0-9][0-9][0-9]-*.png"))
    if not paths:
        raise DataError(f"{folder}: holds no pictures; evaluate.pictures says how many are drawn")
    return tuple(_picture(path, manifest, features) for path in paths)


def _picture(path: Path, manifest: Manifest | None, features: Section["Features"]) -> PictureRow:
    image_id, (image, label, prediction) = read_triptych(path)
    return PictureRow(
        image_id=image_id,
        image=photo(np.asarray(image)),
        label=drawing(np.asarray(label)),
        prediction=drawing(np.asarray(prediction)),
        features=section(lambda: _painted(image_id, manifest, features)),
    )


def _painted(image_id: str, manifest: Manifest | None, features: Section["Features"]) -> str:
    if features.content is None:
        raise DataError(features.missing)
    records = {record.image_id: record for record in manifest.records} if manifest else {}
    if image_id not in records:
        raise DataError(f"the manifest has no {image_id}")
    try:
        return features.content.paint(records[image_id])
    except SSRError as error:
        split = records[image_id].split
        raise DataError(f"not embedded: add {split} to embed.splits and run `ssr embed`") from error
