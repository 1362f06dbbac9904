"""The evaluate stage: a saved student on labelled images, to mean IoU and pictures."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stages.device import pick_device
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.inference import predict_image
from stages.evaluate.metrics import ConfusionMatrix, Metrics
from stages.evaluate.pictures import triptych
from stages.prepare.manifest import Domain, Manifest
from stages.prepare.reading import read_raw, read_train_ids
from stages.train.model.saved import demand_classes, load_student, read_card
from store.atomic import write_bytes
from store.errors import DataError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What was measured, and the files that say so.

    Attributes:
        metrics: In percent.
        unlabelled: Images of the split that were left out because they have no label.
        metrics_file: `metrics.json`.
        per_class_file: `per_class.csv`, one row per class.
        pictures: The PNGs, in the order of the split.
    """

    metrics: Metrics
    unlabelled: int
    metrics_file: Path
    per_class_file: Path
    pictures: tuple[Path, ...]


def run(
    config: EvaluateConfig,
    *,
    manifest: Manifest,
    roots: Mapping[Domain, Path],
    student: Path,
    out: Path,
    progress: Progress,
) -> EvaluateResult:
    """Predict every labelled image of a split at its original size and score the predictions.

    Writes `<out>/metrics.json`, `<out>/per_class.csv` and `<out>/pictures/NNN-<name>.png`; pictures
    of an earlier run are removed. Every file is replaced atomically, `metrics.json` last. Equal
    inputs give equal bytes.

    Args:
        config: Domain and split to measure on.
        manifest: Its class table must be the student's.
        roots: Folder of each domain.
        student: Folder that `save_student` wrote.
        out: Folder for the results.
        progress: Called with images done, images in total and what is being done.

    Raises:
        CheckpointError: There is no student, or it knows other classes than the manifest.
        ConfigError: A CUDA device is asked for and there is none.
        DataError: No image of the split has a label, or a file does not fit the manifest.
    """
    split = manifest.select(domain=config.domain, split=config.split)
    records = [record for record in split if record.label is not None]
    if not records:
        raise DataError(
            f"none of the {len(split)} images of {config.domain}/{config.split} in the manifest "
            "has a label to measure against: add labels there, or set evaluate.domain and "
            "evaluate.split to images that have some"
        )
    device = pick_device(config.device, "evaluate.device")
    network, meta = load_student(student)
    demand_classes(meta, manifest.classes.names, origin=str(student))
    network.to(device)
    shown = _spread(config.pictures, len(records))
    matrix = ConfusionMatrix(len(manifest.classes))
    drawn: dict[Path, bytes] = {}
    progress(0, len(records), "evaluate")
    for index, record in enumerate(records):
        root = roots[record.domain]
        image = read_raw(record, root)
        label = read_train_ids(record, root, manifest.labels[record.domain])
        prediction = predict_image(network, image, record, device=device)
        matrix.update(prediction, label)
        if index in shown:
            name = f"{len(drawn):03d}-{PurePosixPath(record.image_id).name}.png"
            png = io.BytesIO()
            triptych(image, label, prediction, manifest.classes).save(png, "PNG")
            drawn[out / "pictures" / name] = png.getvalue()
        progress(index + 1, len(records), "evaluate")
    metrics = Metrics.of(matrix, manifest.classes.names, images=len(records))
    _replace_pictures(out / "pictures", drawn)
    write_bytes(out / "per_class.csv", _as_csv(metrics))
    described = {
        "teacher_trained": meta.get("teacher_trained"),
        "student": read_card(student).weights_sha256[:12],  # whose metrics these are
        "domain": config.domain,
        "split": config.split,
    }
    write_bytes(out / "metrics.json", _as_json(metrics, described))
    return EvaluateResult(
        metrics=metrics,
        unlabelled=len(split) - len(records),
        metrics_file=out / "metrics.json",
        per_class_file=out / "per_class.csv",
        pictures=tuple(drawn),
    )


def _spread(wanted: int, total: int) -> set[int]:
    """Choose indices that cut `total` images in equal parts, each the middle of its part."""
    count = min(wanted, total)
    return {(2 * part + 1) * total // (2 * count) for part in range(count)}


def _replace_pictures(folder: Path, drawn: Mapping[Path, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # also when empty: the pipeline declares it
    for path, png in drawn.items():
        write_bytes(path, png)
    for path in folder.glob("[0-9][0-9][0-9]-*.png"):  # only names that this stage gives
        if path not in drawn:
            path.unlink()


def _as_json(metrics: Metrics, described: Mapping[str, Any]) -> bytes:
    content: dict[str, Any] = {
        "miou": metrics.miou,
        "accuracy": metrics.accuracy,
        "mean_accuracy": metrics.mean_accuracy,
        "images": metrics.images,
        **described,
        "iou": dict(metrics.iou),
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def _as_csv(metrics: Metrics) -> bytes:
    """One row per class; an empty cell is a class that is undefined in this split."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("class", "iou", "accuracy"))
    for name, iou in metrics.iou.items():
        writer.writerow((name, iou, metrics.class_accuracy[name]))
    return text.getvalue().encode()
