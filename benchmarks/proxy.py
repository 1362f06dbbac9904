"""Correlate what is known without target labels with what students score on the target.

    python -m benchmarks.proxy DIR STUDENT... --out OUT --restyled NAME=restyled.parquet

DIR is a folder of `benchmarks.compare` with labels from the store (arm `store-labels`); each
STUDENT is a folder `runs/seedN/ARM/student` of any comparison on the same data, and equal ones
count once. Truth is the comparison's mean IoU, of `result.json` beside it. Scores are the mean IoU
on source/val, as it is and as manifests of `ssr restyle` show it, and the agreement with the
store's labels of target/train, weighted by their confidence: share of tokens, and mean IoU. A
choice costs the truth of the best student minus that of the student whose score is highest.
Intervals are of 2000 bootstraps over students. OUT/scores.json keeps what was measured.
"""

# h w tokens, K classes

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.runs import positive
from benchmarks.tables import markdown
from pipeline.params import load_params
from stages.device import cpu_threads
from stages.label.classifier import token_labels
from stages.label.stage import CLASSES
from stages.prepare.labels import IGNORE
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.pixels import label_window, read_raw, resize_label
from stages.prepare.restyled import Restyled
from stages.student.config import STUDENT_FILES
from stages.student.inference import predict_image
from stages.student.student import Student, open_student
from stages.train.validate import Validation
from store.atomic import write_bytes
from store.errors import SSRError, StoreError
from store.fingerprint import fingerprint_of, sha256_of_file
from store.index import Index, labels_beside
from store.read import FeatureReader, open_features

TRUTH: Final = "truth"
Values = NDArray[np.float64]
Exam = Callable[[Student], dict[str, float]]


def spearman(score: Values, truth: Values) -> float:
    """Correlate the ranks of two (N,), equal values by their mean rank; NaN of a constant."""
    return _correlation(*(_signs(each).sum(1) for each in (score, truth)))


def kendall(score: Values, truth: Values) -> float:
    """Return tau-b of two (N,); NaN of a constant."""
    return _correlation(*(_signs(each).ravel() for each in (score, truth)))


def cost(score: Values, truth: Values) -> float:
    """Return what the truth of the highest score lacks to the highest truth."""
    return float(truth.max() - truth[score.argmax()])


def _signs(values: Values) -> Values:
    signs: Values = np.sign(values[:, None] - values)
    return signs


def _correlation(one: Values, other: Values) -> float:
    with np.errstate(invalid="ignore"):  # both have a mean of 0
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def table(scores: Sequence[Mapping[str, float]], names: Sequence[str]) -> str:
    """Compare each score of students with their truth, and say whom it chooses."""
    truth = np.array([each[TRUTH] for each in scores])
    draws = np.random.default_rng(0).integers(len(truth), size=(2000, len(truth)))
    rows: list[Sequence[str]] = [("score", "Spearman", "Kendall", "cost", "chosen")]
    for name in scores[0]:
        score, row = np.array([each[name] for each in scores]), [name]
        for of in (spearman, kendall, cost):
            resampled = [of(score[each], truth[each]) for each in draws]
            low, high = np.nanpercentile(resampled, [2.5, 97.5])
            row.append(f"{of(score, truth):.2f} ({low:.2f} to {high:.2f})")
        rows.append((*row, names[int(score.argmax())]))
    return f"{len(truth)} students, {truth.min():.2f} to {truth.max():.2f}\n\n{markdown(rows)}"


def agreement(
    student: Student, reader: FeatureReader, records: Sequence[ImageRecord], root: Path
) -> dict[str, float]:
    """Compare a student with stored labels (K, h, w), weighted by their confidence, in percent."""
    device, level = torch.device("cpu"), reader.header.spec.level(CLASSES)
    agreed = np.zeros((level.channels, level.channels))  # by label and prediction
    for record in records:
        prediction = predict_image(student, read_raw(record, root), record, device=device)
        seen = resize_label(prediction, record.resized_size_px)
        padded = label_window(seen, 0, 0, *record.working_size_px)
        tokens = token_labels(padded, level.stride_px, level.channels)  # (h, w)
        stored = reader.window(record.image_id, CLASSES, 0, 0, *tokens.shape)
        inside = tokens != IGNORE
        weights = stored.max(0)[inside].astype(np.float64)
        np.add.at(agreed, (stored.argmax(0)[inside], tokens[inside]), weights)
    right, union = agreed.diagonal(), agreed.sum(0) + agreed.sum(1) - agreed.diagonal()
    iou = (right[union > 0] / union[union > 0]).mean()
    return {"agreement": 100 * right.sum() / agreed.sum(), "agreement, mean IoU": 100 * iou}


def exams(place: Path, restyled: Mapping[str, Path], most: int) -> dict[str, Exam]:
    """Return what scores a student, by what scores depend on beside it."""
    manifest, index = Manifest.read(place / "data/manifest.parquet"), place / "data/index.json"
    roots = load_params(place / "params.yaml", ()).prepare.roots
    found: dict[str, Exam] = {}

    def add(name: str, every: Sequence[ImageRecord], made: Restyled | None = None) -> None:
        records = every[:: -(-len(every) // most)]
        validation = Validation(tuple(records), manifest, roots, restyled=made)
        versions = {} if made is None else made.versions("val")
        shown = [each for r in records for each in versions.get(r.image_id, (r,))]
        digest = fingerprint_of([name, *(each.sha256 for each in shown)])
        found[digest] = lambda each: {name: validation.measure(each, None)["miou"]}

    source = manifest.select(domain="source", split="val")
    add("source val", source)
    for name, path in restyled.items():
        made = Restyled.read(path, of=place / "data/manifest.parquet")
        add(name, [each for each in source if each.image_id in made.versions("val")], made)
    every = manifest.select(domain="target", split="train")
    records, labels = every[:: -(-len(every) // most)], Index.read(labels_beside(index))
    contents = {record.image_id: record.content for record in records}
    if not labels.stores:
        raise StoreError(f"{labels_beside(index)}: holds no labels; take a DIR whose arm uses some")
    reader = open_features(
        place / "data/features", labels, "target", levels=[CLASSES], images=contents
    )
    digest = fingerprint_of([labels.stores["target"].fingerprint, contents])
    found[digest] = lambda each: agreement(each, reader, records, roots["target"])
    return found


def main() -> None:
    """Score what is not yet scored, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("place", type=Path, metavar="DIR", help="params.yaml and data")
    add("students", type=Path, nargs="+", metavar="STUDENT")
    add("--out", type=Path, required=True)
    add("--restyled", action="append", default=[], metavar="NAME=FILE", help="restyled source/val")
    add("--images", type=positive, default=64, help="of each split at most")
    options = parser.parse_args()
    path: Path = options.out / "scores.json"
    restyled = {name: Path(file) for name, _, file in (o.partition("=") for o in options.restyled)}
    students = {sha256_of_file(each / STUDENT_FILES[1]): each for each in options.students}
    scores: list[dict[str, float]] = []
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
        of_student = exams(options.place, restyled, options.images)
        for weights, folder in students.items():
            student = open_student(folder)[0]
            result = json.loads((folder.parent / "result.json").read_text())
            score: dict[str, float] = {TRUTH: result["miou"]}
            for digest, exam in of_student.items():
                key = f"{weights[:16]} {digest}"
                with cpu_threads(1):
                    kept[key] = kept.get(key) or exam(student)
                score |= kept[key]
                write_bytes(path, json.dumps(kept, indent=1).encode() + b"\n")
            scores.append(score)
            print(folder.parent, *(f"{k} {v:.2f}" for k, v in score.items()), sep=" | ", flush=True)
    except (SSRError, OSError) as error:
        parser.error(str(error))
    print(table(scores, ["/".join(each.parts[-3:-1]) for each in students.values()]))


if __name__ == "__main__":
    main()
