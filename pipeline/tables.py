"""Tables of what the stages found."""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.console import console, print_table, size
from stages.prepare.stage import PrepareResult
from store.errors import DataError
from store.summary import LevelSummary, StoreSummary

UNTRAINED = "UNTRAINED TEACHER: its weights are random; expect no gain from SSR"


def print_manifest(result: PrepareResult) -> None:
    """Show images, labels and sizes of each split."""
    state = "written" if result.changed else "unchanged"
    print_table(
        f"{result.path}: {state}",
        ("", "images", "labels", "size (h x w)", "working size"),
        [
            (
                f"{split.domain} {split.split}",
                str(split.images),
                str(split.labelled),
                _sizes(split.raw_sizes_px),
                _sizes(split.working_sizes_px),
            )
            for split in result.splits
        ],
    )


def print_store(store: StoreSummary) -> None:
    """Show where a store comes from, whether it is complete, and its levels."""
    teacher = store.provenance["teacher"]
    assert isinstance(teacher, dict)
    removed = f", {store.removed_images} removed" if store.removed_images else ""
    state = "complete" if store.complete else "INCOMPLETE: run `ssr embed`"
    console.print(f"{store.path}: {store.images} images of the {store.domain}{removed}, {state}")
    console.print(
        f"teacher {teacher['architecture']}, weights sha256 {str(teacher['weights_sha256'])[:12]}, "
        f"{store.codec}, fingerprint {store.fingerprint[:8]}"
    )
    if not teacher["trained"]:
        console.print(UNTRAINED)
    print_table(
        "",
        ("level", "shape", "shards", "on disk", "mean", "std", "min", "max"),
        [
            (
                name,
                " x ".join(map(str, level.shape)),
                f"{level.shards_done}/{level.shards}",
                size(level.size_bytes),
                *_statistics(level),
            )
            for name, level in store.levels.items()
        ],
    )


def print_metrics(run: Path) -> None:
    """Show IoU per class and the means of an evaluated run.

    Raises:
        DataError: If the run was not evaluated, or the file is damaged.
    """
    path = run / "metrics.json"
    if not path.is_file():
        raise DataError(f"{path}: there is no evaluation yet; run `dvc repro` or `ssr evaluate`")
    try:
        metrics = json.loads(path.read_text())
        rows = [(name, _percent(iou)) for name, iou in metrics["iou"].items()]
        rows.append(("mean IoU", _percent(metrics["miou"])))
        title = f"{path}: {metrics['images']} images, percent"
        accuracy = _percent(metrics["accuracy"])
        untrained = metrics["teacher_trained"] is False
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged; run `ssr evaluate` again") from error
    print_table(title, ("class", "IoU"), rows)
    console.print(f"pixel accuracy {accuracy}")
    pictures = sorted((run / "pictures").glob("*.png"))
    if pictures:
        console.print(f"image | label | prediction: {pictures[0]} and {len(pictures) - 1} more")
    if untrained:
        console.print(UNTRAINED)


def _sizes(sizes: Sequence[tuple[int, int]]) -> str:
    height, width = sizes[0]
    more = f" and {len(sizes) - 1} more" if len(sizes) > 1 else ""
    return f"{height} x {width}{more}"


def _statistics(level: LevelSummary) -> tuple[str, str, str, str]:
    statistics = level.statistics
    if statistics is None:
        return ("-",) * 4
    mean = sum(statistics.sum) / (statistics.count * len(statistics.sum))
    squares = sum(statistics.sumsq) / (statistics.count * len(statistics.sum))
    deviation = max(squares - mean**2, 0.0) ** 0.5
    values = (mean, deviation, min(statistics.min), max(statistics.max))
    first, second, third, fourth = (f"{value:.3g}" for value in values)
    return first, second, third, fourth


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
