"""What the report says of the evaluation: scores, what is taken for what, pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.report.features import Features
from pipeline.report.inline import drawing, photo
from pipeline.report.section import Section, section
from stages.evaluate.config import ONCE
from stages.evaluate.pictures import read_triptych
from stages.evaluate.scores import Evaluation, read_confusion, read_scores
from stages.prepare.manifest import Manifest
from store.errors import DataError


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
        scores: Of all datasets.
        inference: What differed from one whole pass, as `key value`.
        confusion: Of the first dataset, or why there is none.
        pictures: Some images of it.
    """

    scores: Evaluation
    inference: tuple[str, ...]
    confusion: Section[Confusion]
    pictures: Section[tuple[PictureRow, ...]]


def read_results(run: Path, manifest: Section[Manifest], features: Section[Features]) -> Results:
    """Read what `ssr evaluate` left in a run's folder.

    Args:
        run: The folder.
        manifest: The images, or why they are not known.
        features: The stores, for the pictures, or why there are none.

    Raises:
        DataError: The run was not evaluated, or the file of its scores is damaged.
    """
    scores = read_scores(run)
    return Results(
        scores=scores,
        inference=_changed(scores.inference),
        confusion=section(lambda: _confusion(run / "confusion.csv")),
        pictures=section(lambda: _pictures(run / "pictures", manifest, features)),
    )


def _changed(inference: dict[str, Any]) -> tuple[str, ...]:
    plain = ONCE.model_dump(mode="json")
    return tuple(f"{key} {value}" for key, value in inference.items() if plain.get(key) != value)


def _confusion(path: Path) -> Confusion:
    classes, counts = read_confusion(path)
    totals = counts.sum(axis=1, keepdims=True)
    percents = 100 * counts / np.maximum(totals, 1)
    return Confusion(
        classes=classes,
        rows=tuple(
            (label, tuple(shares.tolist()))
            for label, shares, total in zip(classes, percents, totals, strict=True)
            if total > 0
        ),
    )


def _pictures(
    folder: Path, manifest: Section[Manifest], features: Section[Features]
) -> tuple[PictureRow, ...]:
    paths = sorted(folder.glob("[0-9][0-9][0-9]-*.png"))
    if not paths:
        raise DataError(f"{folder}: holds no pictures; evaluate.pictures says how many are drawn")
    return tuple(_picture(path, manifest, features) for path in paths)


def _picture(path: Path, manifest: Section[Manifest], features: Section[Features]) -> PictureRow:
    image_id, (image, label, prediction) = read_triptych(path)
    return PictureRow(
        image_id=image_id,
        image=photo(np.asarray(image)),
        label=drawing(np.asarray(label)),
        prediction=drawing(np.asarray(prediction)),
        features=features.then(lambda stores: _painted(image_id, manifest, stores)),
    )


def _painted(image_id: str, manifest: Section[Manifest], stores: Features) -> str:
    records = manifest.content.records if manifest.content is not None else ()
    for record in records:
        if record.image_id == image_id:
            return stores.paint(record)
    raise DataError("only images of section prepare have features")
