"""The evaluate stage: a saved student on labelled images, to mean IoU and pictures."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from stages.device import pick_device
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.pictures import confusion_picture, triptych_png
from stages.prepare.datasets import SourceConfig
from stages.prepare.labels import ClassTable, LabelTable
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import read_raw, read_train_ids
from stages.prepare.scan import MeasurementCache, scan, select
from stages.prepare.scan import require_classes as require_same_classes
from stages.student.config import ONCE, Inference
from stages.student.inference import predict_image
from stages.student.metrics import ConfusionMatrix, Metrics
from stages.student.saved import require_classes
from stages.student.student import open_student
from store.atomic import write_bytes
from store.errors import ConfigError, DataError
from store.fingerprint import fingerprint_of

Progress = Callable[[int, int, str], None]

DATASETS = "datasets"
"""Folder of the results of all datasets but the first."""


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What was measured, and the files that say so.

    Attributes:
        metrics: Of the first dataset, in percent.
        others: Of the further ones by name.
        unlabelled: Images of the split that were left out because they have no label.
        metrics_file: `metrics.json`.
        per_class_file: `per_class.csv` of the first dataset, one row per class.
        pictures: Its PNGs, in the order of the split.
    """

    metrics: Metrics
    others: Mapping[str, Metrics]
    unlabelled: int
    metrics_file: Path
    per_class_file: Path
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Dataset:
    """Labelled images under one root.

    Attributes:
        name: "target/val" for a split of the manifest, else its name in the params.
        records: The images, at least one.
        root: Where their paths begin.
        labels: How their labels are read.
        unlabelled: Images that were left out because they have no label.
    """

    name: str
    records: tuple[ImageRecord, ...]
    root: Path
    labels: LabelTable
    unlabelled: int = 0


@dataclass(frozen=True)
class _Measured:
    """One dataset: fingerprint of images and labels, scores, and pictures by file name."""

    content: str
    metrics: Metrics
    matrix: ConfusionMatrix
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
) -> EvaluateResult:
    """Predict every labelled image at its original size and score the predictions.

    Writes `<out>/per_class.csv`, `confusion.csv`, `confusion.png` and `pictures/NNN-<name>.png` of
    the first dataset, the same files of each further one under `<out>/datasets/<name>`, and
    `<out>/metrics.json` of all; what an earlier run left of datasets and pictures is removed. Every
    file is replaced atomically, `metrics.json` last. Equal inputs give equal bytes.

    Args:
        config: What to measure on, and how.
        manifest: Its class table must be the student's.
        roots: Folder of each domain.
        student: Folder that `save_student` wrote.
        out: Folder for the results.
        progress: Called with images done, images in total and what is being done.
        at_least_px: Side of the crop, to which smaller images of `config.datasets` are padded.
        cache: File that remembers what was measured of their files; None is one in `out`.

    Raises:
        CheckpointError: There is no student, or it knows other classes than the manifest.
        ConfigError: A CUDA device is asked for and there is none, or a subset has unknown classes.
        DataError: No image of a dataset has a label, or a file does not fit the manifest.
    """
    _require_known(config.subsets, manifest.classes)
    datasets = []
    if config.domain is not None:
        datasets.append(of_manifest(manifest, config.domain, config, roots))
    device = pick_device(config.device, "evaluate.device")
    network, card = open_student(student)
    meta = card.meta
    require_classes(meta, manifest.classes.names, origin=str(student))
    network.to(device)
    datasets += [
        of_source(
            source,
            name,
            classes=manifest.classes,
            at_least_px=at_least_px,
            cache=cache or out / "scan-cache",
            progress=progress,
        )
        for name, source in config.datasets.items()
    ]
    measured = {
        dataset.name: _measure(network, dataset, manifest.classes, config, device, progress)
        for dataset in datasets
    }
    first, *others = measured
    _write(out, measured[first], manifest.classes)
    _remove_folders(out / DATASETS, keep=others)
    for name in others:
        _write(out / DATASETS / name, measured[name], manifest.classes)
    how = Inference.model_validate(config.model_dump(include=set(Inference.model_fields)))
    described: dict[str, Any] = {
        "teacher_trained": meta.get("teacher_trained"),
        "student": card.weights_sha256[:12],  # whose metrics these are
        "weights": meta.get("network", "student"),
        "domain": config.domain if config.domain is not None else first,
        "split": config.split if config.domain is not None else "val",
    }
    if how != ONCE:
        described["inference"] = how.model_dump(mode="json")
    write_bytes(out / "metrics.json", _as_json(measured, described))
    return EvaluateResult(
        metrics=measured[first].metrics,
        others={name: measured[name].metrics for name in others},
        unlabelled=datasets[0].unlabelled,
        metrics_file=out / "metrics.json",
        per_class_file=out / "per_class.csv",
        pictures=tuple(out / "pictures" / name for name in measured[first].pictures),
    )


def of_manifest(
    manifest: Manifest, domain: Domain, config: EvaluateConfig, roots: Mapping[Domain, Path]
) -> Dataset:
    """Take the labelled images of a domain's split.

    Raises:
        DataError: There are none.
    """
    split = manifest.select(domain=domain, split=config.split)
    records = tuple(record for record in split if record.label is not None)
    if not records:
        raise DataError(
            f"none of the {len(split)} images of {domain}/{config.split} in the manifest "
            "has a label to measure against: add labels there, or set evaluate.domain and "
            "evaluate.split to images that have some"
        )
    unlabelled = len(split) - len(records)
    name = f"{domain}/{config.split}"
    return Dataset(name, records, roots[domain], manifest.labels[domain], unlabelled)


def of_source(
    source: SourceConfig,
    name: str,
    *,
    classes: ClassTable,
    at_least_px: int,
    cache: Path,
    progress: Progress,
) -> Dataset:
    """List and check the val split of a dataset of `evaluate.datasets`.

    Args:
        source: The dataset.
        name: Its key there.
        classes: Those that it must have.
        at_least_px: Side of the crop, to which smaller images are padded.
        cache: File that remembers what was measured; may be deleted at any time.
        progress: Called with (done, total, what).

    Raises:
        DataError: Data is missing, damaged or inconsistent, or of other classes.
    """
    key = f"evaluate.datasets.{name}"
    listing = source.scan(progress).sound()
    require_same_classes(listing, classes, key)
    items = [item for item in listing.items if item.split == "val" and item.label is not None]
    if not items:
        raise DataError(f"{key} has no labelled val split: name its folders, or remove the dataset")
    measurements = MeasurementCache(cache)
    try:
        found = scan(
            "target",
            select(key, items, source, also_known=listing.items),
            source,
            listing,
            what=name,
            at_least_px=at_least_px,
            cache=measurements,
            progress=progress,
        )
    finally:
        measurements.save()
    for error in found.bad.values():
        raise error
    if not found.records:
        raise DataError(f"{key}.exclude leaves no image to measure on: exclude fewer")
    ordered = tuple(sorted(found.records, key=lambda record: record.image_id))
    return Dataset(name, ordered, source.folder, listing.labels)


def _measure(
    network: nn.Module,
    dataset: Dataset,
    classes: ClassTable,
    config: EvaluateConfig,
    device: torch.device,
    progress: Progress,
) -> _Measured:
    """Predict image by image; only counts and the pictures stay in memory."""
    total = len(dataset.records)
    shown = _spread(config.pictures, total)
    matrix = ConfusionMatrix(len(classes))
    drawn: dict[str, bytes] = {}
    progress(0, total, dataset.name)
    for index, record in enumerate(dataset.records):
        image = read_raw(record, dataset.root)
        label = read_train_ids(record, dataset.root, dataset.labels)
        prediction = predict_image(network, image, record, device=device, how=config)
        matrix.update(prediction, label)
        if index in shown:
            name = f"{len(drawn):03d}-{PurePosixPath(record.image_id).name}.png"
            drawn[name] = triptych_png(record.image_id, image, label, prediction, classes)
        progress(index + 1, total, dataset.name)
    metrics = Metrics.of(matrix, classes.names, images=total, subsets=config.subsets)
    content = fingerprint_of([(r.sha256, r.label_sha256) for r in dataset.records])[:12]
    return _Measured(content, metrics, matrix, drawn)


def _require_known(subsets: Mapping[str, Sequence[str]], classes: ClassTable) -> None:
    """Refuse further means over classes that there are not."""
    for subset, names in subsets.items():
        unknown = [name for name in names if name not in classes.names]
        if unknown:
            raise ConfigError(
                f"evaluate.subsets.{subset} names {unknown[0]}, which is not a class of the data; "
                f"these are {', '.join(classes.names)}"
            )


def _write(folder: Path, measured: _Measured, classes: ClassTable) -> None:
    """Write table and pictures of one dataset."""
    _replace_pictures(folder / "pictures", measured.pictures)
    png = io.BytesIO()
    confusion_picture(measured.matrix.counts, classes.names).save(png, "PNG")
    write_bytes(folder / "confusion.png", png.getvalue())
    write_bytes(folder / "confusion.csv", _counts_as_csv(measured.matrix, classes))
    write_bytes(folder / "per_class.csv", _as_csv(measured.metrics))


def _remove_folders(folder: Path, *, keep: Sequence[str]) -> None:
    """Remove the results of datasets that are no longer measured: only what this stage wrote."""
    for path in () if folder.is_symlink() else folder.glob("*"):
        ours = (path / "per_class.csv").is_file() and not path.is_symlink()
        if ours and path.name not in keep:
            shutil.rmtree(path)


def _spread(wanted: int, total: int) -> set[int]:
    """Choose indices that cut `total` images in equal parts, each the middle of its part."""
    count = min(wanted, total)
    return {(2 * part + 1) * total // (2 * count) for part in range(count)}


def _replace_pictures(folder: Path, drawn: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # also when empty: the pipeline declares it
    for name, png in drawn.items():
        write_bytes(folder / name, png)
    for path in folder.glob("[0-9][0-9][0-9]-*.png"):  # only names that this stage gives
        if path.name not in drawn and not folder.is_symlink():
            path.unlink()


def _as_json(measured: Mapping[str, _Measured], described: Mapping[str, Any]) -> bytes:
    """Write the first dataset at the top level; of several, each by name and their mean too."""
    first, *others = measured.values()
    content: dict[str, Any] = {**_means(first), **described, **_by_class(first.metrics)}
    if others:
        mious = [each.metrics.miou for each in measured.values()]
        content["mean_miou"] = round(sum(mious) / len(mious), 2)
        content["datasets"] = {
            name: {**_means(each), **_by_class(each.metrics)} for name, each in measured.items()
        }
    return json.dumps(content, indent=2).encode() + b"\n"


def _means(measured: _Measured) -> dict[str, float | str]:
    return {
        "miou": measured.metrics.miou,
        "accuracy": measured.metrics.accuracy,
        "mean_accuracy": measured.metrics.mean_accuracy,
        "images": measured.metrics.images,
        "content": measured.content,
    }


def _by_class(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    subsets = {"subsets": dict(metrics.subsets)} if metrics.subsets else {}
    return {**subsets, "iou": dict(metrics.iou)}


def _as_csv(metrics: Metrics) -> bytes:
    """One row per class; an empty cell is a class that is undefined in this split."""
    rows = [(name, iou, metrics.class_accuracy[name]) for name, iou in metrics.iou.items()]
    return _csv(("class", "iou", "accuracy"), rows)


def _counts_as_csv(matrix: ConfusionMatrix, classes: ClassTable) -> bytes:
    """Pixels of the label that a row names, by the class that was predicted."""
    rows = zip(classes.names, matrix.counts.tolist(), strict=True)
    return _csv(("label", *classes.names), [(name, *counts) for name, counts in rows])


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
