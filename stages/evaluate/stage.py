"""The evaluate stage: a saved student on labelled images, to mean IoU and pictures."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stages.device import pick_device
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.pictures import confusion_picture, png_of, triptych_png
from stages.evaluate.scores import Evaluation, Scores
from stages.prepare.datasets import SourceConfig
from stages.prepare.labels import ClassTable, LabelTable
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import read_raw, read_train_ids
from stages.prepare.scan import require_classes as require_same_classes
from stages.prepare.scan import scan, select
from stages.student.config import ONCE, Inference
from stages.student.inference import predict_image
from stages.student.metrics import ConfusionMatrix, Metrics
from stages.student.saved import require_classes
from stages.student.student import open_student
from store.atomic import write_bytes, write_text
from store.errors import ConfigError, DataError
from store.fingerprint import fingerprint_of

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Dataset:
    """Labelled images under one root, at least one, and how their labels are read."""

    records: tuple[ImageRecord, ...]
    root: Path
    labels: LabelTable


@dataclass(frozen=True)
class _Measured:
    """One dataset: fingerprint of images and labels, scores, and pictures by file name."""

    content: str
    metrics: Metrics
    counts: NDArray[np.int64]
    pictures: Mapping[str, bytes]


def run(
    config: EvaluateConfig,
    *,
    manifest: Manifest,
    roots: Mapping[Domain, Path],
    student: Path,
    out: Path,
    progress: Progress,
    at_least_px: int = 1,
    cache: Path | None = None,
) -> Mapping[str, Metrics]:
    """Predict every labelled image at its original size and score the predictions.

    Writes `<out>/per_class.csv`, `confusion.csv`, `confusion.png` and `pictures/NNN-<name>.png` of
    the first dataset, the same files of each further one under `<out>/datasets/<name>`, and
    `<out>/metrics.json` of all; pictures of an earlier run are removed. Every file is replaced
    atomically, `metrics.json` last. Equal inputs give equal bytes.

    Smaller images of `config.datasets` are padded to `at_least_px`, the side of the crop; what was
    measured of their files is kept in the file `cache`, by default one in `out`.

    Returns:
        Scores of each dataset by name, in percent; the domain's, e.g. "target/val", first.

    Raises:
        CheckpointError: There is no student, or it knows other classes than the manifest.
        ConfigError: A CUDA device is asked for and there is none, or a subset has unknown classes.
        DataError: No image of a dataset has a label, or a file does not fit the manifest.
    """
    classes = manifest.classes
    for subset, names in config.subsets.items():
        unknown = [name for name in names if name not in classes.names]
        if unknown:
            raise ConfigError(
                f"evaluate.subsets.{subset} names {unknown[0]}, which is not a class of the data; "
                f"these are {', '.join(classes.names)}"
            )
    datasets: dict[str, Dataset] = {}
    if config.domain is not None:
        name = f"{config.domain}/{config.split}"
        records = manifest.select(domain=config.domain, split=config.split)
        labelled = tuple(record for record in records if record.label is not None)
        if not labelled:
            raise DataError(
                f"none of the {len(records)} images of {name} in the manifest has a label: add "
                "some, or set evaluate.domain and evaluate.split to images that have labels"
            )
        root, labels = roots[config.domain], manifest.labels[config.domain]
        datasets[name] = Dataset(labelled, root, labels)
    device = pick_device(config.device, "evaluate.device")
    network, card = open_student(student)
    require_classes(card.meta, classes.names, origin=str(student))
    network.to(device)
    for name, source in config.datasets.items():
        kept = cache or out / "scan-cache"
        datasets[name] = _of_source(source, name, classes, at_least_px, kept, progress)
    measured = {
        name: _measure(network, name, dataset, classes, config, device, progress)
        for name, dataset in datasets.items()
    }
    first, *others = measured
    for name, each in measured.items():
        _write(out if name == first else out / "datasets" / name, each, classes)
    described: dict[str, Any] = {
        "teacher_trained": card.meta.get("teacher_trained"),
        "student": card.weights_sha256[:12],  # whose metrics these are
        "weights": card.meta.get("network", "student"),
        "domain": config.domain or first,
        "split": config.split if config.domain else "val",
    }
    how = Inference.model_validate(config.model_dump(include=set(Inference.model_fields)))
    if how != ONCE:
        described["inference"] = how.model_dump(mode="json")
    scores = {name: _scores(each) for name, each in measured.items()}
    if others:
        mean = sum(each.metrics.miou for each in measured.values()) / len(measured)
        described |= {"mean_miou": round(mean, 2), "datasets": scores}
    evaluation = Evaluation.model_validate(scores[first] | described)
    text = evaluation.model_dump_json(indent=2, exclude_unset=True)
    write_text(out / "metrics.json", text + "\n")
    return {name: each.metrics for name, each in measured.items()}


def _of_source(
    source: SourceConfig,
    name: str,
    classes: ClassTable,
    at_least_px: int,
    cache: Path,
    progress: Progress,
) -> Dataset:
    """List and check the val split of a dataset of `evaluate.datasets`.

    Raises:
        DataError: Data is missing, damaged or inconsistent, or of other classes.
    """
    key = f"evaluate.datasets.{name}"
    listing = source.scan(progress).sound()
    require_same_classes(listing, classes, key)
    kept = select(key, listing.items, source)
    items = [item for item in kept if item.split == "val" and item.label is not None]
    if not items:
        raise DataError(
            f"{key} has no labelled image of a val split left: name its folders, exclude fewer, or "
            "remove the dataset"
        )
    found, bad = scan(
        "target",
        items,
        source,
        listing,
        what=name,
        at_least_px=at_least_px,
        cache=cache,
        progress=progress,
    )
    for _, error in bad:
        raise error
    records = sorted((record for record, _ in found), key=lambda record: record.image_id)
    return Dataset(tuple(records), source.folder, listing.labels)


def _measure(
    network: nn.Module,
    name: str,
    dataset: Dataset,
    classes: ClassTable,
    config: EvaluateConfig,
    device: torch.device,
    progress: Progress,
) -> _Measured:
    """Predict image by image; only counts and the pictures stay in memory."""
    total = len(dataset.records)
    count = min(config.pictures, total)  # of parts of the split, whose middles are drawn
    shown = {(2 * part + 1) * total // (2 * count) for part in range(count)}
    matrix = ConfusionMatrix(len(classes))
    drawn: dict[str, bytes] = {}
    progress(0, total, name)
    for index, record in enumerate(dataset.records):
        image = read_raw(record, dataset.root)
        label = read_train_ids(record, dataset.root, dataset.labels)
        prediction = predict_image(network, image, record, device=device, how=config)
        matrix.update(prediction, label)
        if index in shown:
            file = f"{len(drawn):03d}-{PurePosixPath(record.image_id).name}.png"
            drawn[file] = triptych_png(record.image_id, image, label, prediction, classes)
        progress(index + 1, total, name)
    metrics = Metrics.of(matrix, classes.names, images=total, subsets=config.subsets)
    content = fingerprint_of([(r.sha256, r.label_sha256) for r in dataset.records])[:12]
    return _Measured(content, metrics, matrix.counts, drawn)


def _scores(measured: _Measured) -> dict[str, Any]:
    """Return the values of `Scores`, without subsets where there are none."""
    values = {name: getattr(measured.metrics, name, None) for name in Scores.model_fields}
    values["content"] = measured.content
    return {name: value for name, value in values.items() if value != {}}


def _write(folder: Path, measured: _Measured, classes: ClassTable) -> None:
    """Write tables and pictures of one dataset; remove pictures of an earlier run."""
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)  # also when empty: the pipeline declares it
    for name, png in measured.pictures.items():
        write_bytes(pictures / name, png)
    for path in pictures.glob("[0-9][0-9][0-9]-*.png"):  # only names that this stage gives
        if path.name not in measured.pictures and not pictures.is_symlink():
            path.unlink()
    counts, metrics = measured.counts, measured.metrics
    write_bytes(folder / "confusion.png", png_of(confusion_picture(counts, classes.names)))
    rows = zip(classes.names, counts.tolist(), strict=True)
    table = [("label", *classes.names), *((name, *row) for name, row in rows)]
    _write_csv(folder / "confusion.csv", table)
    ious = [(name, iou, metrics.class_accuracy[name]) for name, iou in metrics.iou.items()]
    _write_csv(folder / "per_class.csv", [("class", "iou", "accuracy"), *ious])


def _write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table; an empty cell is a class that is undefined in this split."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())
