"""Tables of what the stages found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from pipeline.console import console, print_table
from stages.embed.stores import weights_of
from stages.evaluate.scores import percent_text, read_scores
from stages.prepare.stage import PrepareResult, summarise

if TYPE_CHECKING:  # torch and xarray, which most tables do without
    from store.summary import LevelSummary, StoreSummary

MOST_LINES = 20
"""Images that are listed by name."""

UNTRAINED = "UNTRAINED TEACHER: its weights are random; expect no gain from SSR"


def print_manifest(result: PrepareResult) -> None:
    """Show images, labels and sizes of each split, and what looks wrong."""
    state = "written" if result.changed else "unchanged"
    print_table(
        f"{result.path}: {state}",
        ("", "images", "labels", "size (h x w)", "working size"),
        [
            (
                f"{split.domain} {split.split}",
                str(split.images),
                str(split.labelled),
                sizes_text(split.raw_sizes_px),
                sizes_text(split.working_sizes_px),
            )
            for split in summarise(result.manifest)
        ],
    )
    for finding in result.findings:
        console.print(finding)
    skipped = result.manifest.skipped.items()
    print_first([f"SKIPPED {image_id}: {why}" for image_id, why in skipped])


def print_classifier(provenance: Mapping[str, Any]) -> None:
    """Show what a store of labels says of its classifier."""
    about = provenance["classifier"]
    line = f"a linear classifier of {provenance['inputs']['label.level']}"
    line += f", learnt from {about['images']} images of source/train"
    if "accuracy" in about:
        line += (
            f"; on {about['held_out']} more it has {about['accuracy']:.1%} of the tokens right, "
            f"calibration error {about['calibration_error']:.3f} at temperature "
            f"{about['temperature']:g}"
        )
    console.print(line)


def print_store(store: "StoreSummary") -> None:
    """Show where a store comes from, whether it is complete, and its levels."""
    provenance: Mapping[str, Any] = store.provenance
    teacher = teacher_of(provenance)
    removed = f", {store.removed_images} removed" if store.removed_images else ""
    makes = "label" if "classifier" in provenance else "embed"
    state = "complete" if store.complete else f"INCOMPLETE: run `ssr {makes}`"
    console.print(f"{store.path}: {store.images} images of the {store.domain}{removed}, {state}")
    console.print(
        f"teacher {teacher.get('architecture')}, weights {weights_of(teacher)}, {store.codec}, "
        f"fingerprint {store.fingerprint[:8]}"
    )
    if not teacher.get("trained"):
        console.print(UNTRAINED)
    if "classifier" in provenance:
        print_classifier(provenance)
        if (found := store.levels["classes"].statistics) is not None:
            # of each class the mean probability, padding included
            pairs = zip(provenance["classes"], found.sum, strict=True)
            console.print(", ".join(f"{name} {total / found.count:.1%}" for name, total in pairs))
    print_table(
        "",
        ("level", "shape", "shards", "on disk", "mean", "std", "min", "max"),
        [
            (
                name,
                " x ".join(map(str, level.shape)),
                f"{level.shards_done}/{level.shards}",
                decimal(level.size_bytes),
                *statistics_text(level),
            )
            for name, level in store.levels.items()
        ],
    )
    for name, level in store.levels.items():
        if level.saturated:
            share = level.saturated / level.numbers
            console.print(f"{name}: {share:.2g} of the numbers are clipped by their scale")
        if level.projection is not None:
            channels, kept = level.projection
            console.print(
                f"{name}: {level.shape[1]} principal components of {channels} channels, "
                f"{kept:.1%} of the variance of a sample"
            )


def print_metrics(run: Path) -> None:
    """Show IoU per class and the means of an evaluated run, a column for each dataset.

    Raises:
        DataError: If the run was not evaluated, or the file is damaged or of an earlier version.
    """
    scores = read_scores(run)
    datasets, measured = scores.by_dataset, list(scores.by_dataset.values())
    values = [{**each.iou, "mean IoU": each.miou, **each.subsets} for each in measured]
    rows = [(name, *(percent_text(each[name]) for each in values)) for name in values[0]]
    seen = "".join(f", {key} {value}" for key, value in scores.inference.items())
    averaged = ", the averaged model" if scores.weights == "ema" else ""
    images = sum(each.images for each in measured)
    title = f"{run / 'metrics.json'}: {images} images, percent{averaged}{seen}"
    print_table(title, ("class", *(datasets if len(measured) > 1 else ("IoU",))), rows)
    for name, each in datasets.items():
        accuracy = percent_text(each.accuracy)
        console.print(f"{name}: {each.images} images, pixel accuracy {accuracy}")
    if scores.mean_miou is not None:
        mean = percent_text(scores.mean_miou)
        console.print(f"mean over the {len(measured)} datasets: mean IoU {mean}")
    console.print(f"image | label | prediction: {run / 'pictures'}; {run / 'confusion.png'}")
    if scores.teacher_trained is False:
        console.print(UNTRAINED)


def teacher_of(provenance: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the identity of the teacher that features are of; empty where it is not noted."""
    teacher = provenance.get("teacher")
    return teacher if isinstance(teacher, Mapping) else {}


def sizes_text(sizes: Sequence[tuple[int, int]]) -> str:
    """Write the most frequent of sizes (height, width), and how many others there are."""
    height, width = sizes[0]
    more = f" and {len(sizes) - 1} more" if len(sizes) > 1 else ""
    return f"{height} x {width}{more}"


def statistics_text(level: "LevelSummary") -> tuple[str, ...]:
    """Write mean, standard deviation, least and largest of all numbers of a level."""
    statistics = level.statistics
    if statistics is None:
        return ("-",) * 4
    count = statistics.count * len(statistics.sum)
    mean, squares = sum(statistics.sum) / count, sum(statistics.sumsq) / count
    deviation = max(squares - mean**2, 0.0) ** 0.5
    values = (mean, deviation, min(statistics.min), max(statistics.max))
    return tuple(f"{value:.3g}" for value in values)


def print_first(lines: Sequence[str]) -> None:
    """Print the first of some lines, and how many more there are."""
    for line in lines[:MOST_LINES]:
        console.print(f"  {line}")
    if len(lines) > MOST_LINES:
        console.print(f"  and {len(lines) - MOST_LINES} more images")
