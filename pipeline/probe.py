"""The invariance probe on stores: do their tokens mean by dusk what they mean by day?

`stages.evaluate.probe` says how; here are the images, their labels and features: the teacher's from
the stores, and the student's own beside them where there is one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.params import Params
from stages.evaluate.model import open_model
from stages.evaluate.probe import Image, Score, on_grid, probe, token_labels
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import label_window, normalised_window, resize_image, resize_label
from stages.prepare.reading import read_raw, read_train_ids
from stages.student.student import Student
from store.errors import CheckpointError, StoreIncompleteError
from store.files import join
from store.index import Index
from store.read import FeatureReader
from store.spec import stride_of

Progress = Callable[[int, int, str], None]

LEARN: Final[tuple[Domain, str]] = ("source", "train")
TESTS: Final[tuple[tuple[Domain, str], ...]] = (("source", "val"), ("target", "val"))


@dataclass(frozen=True)
class ProbeReport:
    """Scores of classifiers that learnt on labels of the source.

    Attributes:
        teacher: Provenance of the features, as in the store.
        classes: Their names.
        learnt_on: Number of images of source/train.
        scores: (features, split) -> score, e.g. of ("teacher stride8", "target/val").
    """

    teacher: Mapping[str, Any]
    classes: tuple[str, ...]
    learnt_on: int
    scores: Mapping[tuple[str, str], Score]

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        rows = [
            {
                "features": features,
                "on": on,
                **asdict(score),
                "iou": dict(zip(self.classes, score.iou, strict=True)),
            }
            for (features, on), score in self.scores.items()
        ]
        return {"teacher": dict(self.teacher), "learnt_on": self.learnt_on, "rows": rows}


def run_probe(
    params: Params,
    manifest: Manifest,
    *,
    index_path: Path,
    images: int,
    student: Path | None,
    progress: Progress,
) -> ProbeReport:
    """Probe the stores that the index names, and a student.

    Args:
        params: All sections.
        manifest: The images.
        index_path: The index.
        images: Most images of each split, evenly spread over it.
        student: Folder of a student or run, whose features are probed too.
        progress: Called after each image.

    Raises:
        StoreError: There are no stores, they are damaged, or no labelled image of the target is
            in them.
        CheckpointError: There is no such student, or it is of other classes.
        DataError: An image changed since `ssr prepare`.
    """
    index = Index.read(index_path)
    readers = {
        domain: FeatureReader(join(params.store.location, entry.path))
        for domain, entry in index.stores.items()
    }
    network = None if student is None else _network(student, manifest)
    read = _Features(params.prepare.roots, manifest, index, readers, network)
    splits = {
        (domain, split): _pick(_embedded(manifest, readers, domain, split), images)
        for domain, split in (LEARN, *TESTS)
    }
    for (domain, split), records in splits.items():
        if not records and (domain, split) != ("source", "val"):
            raise StoreIncompleteError(
                f"no labelled image of {domain}/{split} has features: name both domains in "
                "embed.domains and [train, val] in embed.splits, and run `ssr embed`"
            )
    counted, total = count(1), sum(map(len, splits.values()))

    def images_of(part: tuple[Domain, str]) -> Iterator[Image]:
        for record in splits[part]:
            image = read.of(record)
            progress(next(counted), total, "/".join(part))
            yield image

    tests = {"/".join(part): images_of(part) for part in TESTS if splits[part]}
    scores = probe(images_of(LEARN), tests, len(manifest.classes))
    provenance = index.stores["source"].provenance["teacher"]
    assert isinstance(provenance, dict)
    return ProbeReport(provenance, tuple(manifest.classes.names), len(splits[LEARN]), scores)


@dataclass(frozen=True)
class _Features:
    """Where all features of an image are read: the teacher's and a student's."""

    roots: Mapping[Domain, Path]
    manifest: Manifest
    index: Index
    readers: Mapping[str, FeatureReader]
    student: Student | None

    def of(self, record: ImageRecord) -> Image:
        """Read the features of an image at each level, and the labels of their tokens."""
        domain = record.domain
        root, labels = self.roots[domain], self.manifest.labels[domain]
        label = resize_label(read_train_ids(record, root, labels), record.resized_size_px)
        label = label_window(label, 0, 0, *record.working_size_px)
        levels = tuple(self.index.stores[domain].levels)
        ids = {
            level: token_labels(label, stride_of(level), len(self.manifest.classes))
            for level in levels
        }
        image = {
            f"teacher {level}": (_stored(self.readers[domain], record, level), ids[level])
            for level in levels
        }
        if self.student is not None:
            finest = ids[levels[0]]
            maps = _student_maps(self.student, record, root, finest.shape)
            for stage, features in enumerate(maps, 1):
                image[f"student stage {stage}"] = (features, finest)
        return image


def _network(folder: Path, manifest: Manifest) -> Student:
    model = open_model(folder)
    if model.classes.names != manifest.classes.names:
        raise CheckpointError(
            f"{model.folder}: is of {len(model.classes)} other classes than the manifest's; give "
            "a student that was trained on these datasets"
        )
    return model.network


def _embedded(
    manifest: Manifest, readers: Mapping[str, FeatureReader], domain: Domain, split: str
) -> list[ImageRecord]:
    """List the labelled images of a split whose present content is in the store."""
    if domain not in readers:
        return []
    held = {s.image.image_id: s.image.content for s in readers[domain].header.slots if s.live}
    skipped = readers[domain].skipped()
    return [
        record
        for record in manifest.select(domain=domain, split="val" if split == "val" else "train")
        if record.label is not None
        and held.get(record.image_id) == record.content
        and record.image_id not in skipped
    ]


def _pick(records: Sequence[ImageRecord], most: int) -> list[ImageRecord]:
    every = max(1, -(-len(records) // most))
    return list(records[::every])


def _stored(reader: FeatureReader, record: ImageRecord, level: str) -> NDArray[Any]:
    height, width = reader.size_tok(record.image_id, level)
    return reader.window(record.image_id, level, 0, 0, height, width)


def _student_maps(
    student: Student, record: ImageRecord, root: Path, size_tok: tuple[int, ...]
) -> list[NDArray[np.float32]]:
    """Compute a student's four feature maps of an image, on the token grid."""
    resized = resize_image(read_raw(record, root), record.resized_size_px)
    window = normalised_window(resized, 0, 0, *record.working_size_px)
    with torch.inference_mode():
        maps = student.features(torch.from_numpy(window)[None])
    return [on_grid(features[0], (size_tok[0], size_tok[1])) for features in maps]
