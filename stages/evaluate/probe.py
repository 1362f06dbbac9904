"""Domain invariance of features: a linear classifier learns on the source, is scored on both.

It is trained on labelled tokens of the source, of the teacher's features in the stores and of a
student's own. Features that mean the same in both domains lose little on the target.

Legend: C channels, h w tokens, H W pixels, N tokens, K classes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.evaluate.predict import open_model
from stages.label.classifier import LinearProbe, labelled_tokens, token_labels
from stages.prepare.manifest import Domain, ImageRecord, Manifest, Split
from stages.prepare.pixels import (
    label_window,
    normalised_window,
    read_raw,
    read_train_ids,
    resize_image,
    resize_label,
)
from stages.student.metrics import ConfusionMatrix, Metrics
from stages.student.saved import require_classes
from store.errors import DataError, StoreIncompleteError
from store.files import Url, join
from store.index import Index
from store.read import FeatureReader, require_same_bases
from store.spec import upright

Progress = Callable[[int, int, str], None]
Part = tuple[Domain, Split]

LEARN: Final[Part] = ("source", "train")
TESTS: Final[tuple[Part, ...]] = (("source", "val"), ("target", "val"))

Labelled = tuple[NDArray[Any], NDArray[np.uint8]]
"""Features (C, h, w) of one image, and the labels (h, w) of its tokens."""
Image = Mapping[str, Labelled]
"""Name of the features -> one image's."""

_MOST_TOKENS: Final = 512  # of one image that a classifier learns from


class ProbeReport(NamedTuple):
    """Scores of classifiers that learnt on labels of the source."""

    teacher: Mapping[str, Any]
    learnt_on: int  # images of source/train
    scores: Mapping[tuple[str, str], Metrics]  # by features and split, in percent of tokens

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        rows = [
            {"features": features, "on": on, **asdict(score)}
            for (features, on), score in self.scores.items()
        ]
        return {"teacher": dict(self.teacher), "learnt_on": self.learnt_on, "rows": rows}


def run(
    manifest: Manifest,
    *,
    roots: Mapping[Domain, Path],
    stores: Url,
    index: Index,
    images: int,
    student: Path | None,
    progress: Progress,
) -> ProbeReport:
    """Probe the stores that the index names, and a student in its own folder or its run's.

    Paths of the index begin at `stores`. At most `images` of each split are read, evenly spread
    over it; progress is called after each.

    Raises:
        StoreError: There are no stores, they are damaged, or no labelled image of the target is
            in them.
        CheckpointError: There is no such student, or it is of other classes.
        DataError: An image changed since `ssr prepare`.
    """
    readers = {
        domain: FeatureReader(join(stores, entry.path)) for domain, entry in index.stores.items()
    }
    named = {level for entry in index.stores.values() for level in entry.levels}
    require_same_bases(readers.values(), named)
    network = None
    if student is not None:
        model = open_model(student)
        require_classes(model.card.meta, manifest.classes.names, origin=str(model.folder))
        network = model.network
    spread: dict[Part, list[ImageRecord]] = {}
    held: dict[str, str] = {}  # image id -> content
    for reader in readers.values():
        live = (slot.image for slot in reader.header.slots if slot.live)
        held |= {image.image_id: image.content for image in live}
    for domain, split in (LEARN, *TESTS):
        records = [
            record
            for record in manifest.select(domain=domain, split=split)
            if record.label is not None and held.get(record.image_id) == record.content
        ]
        if not records and (domain, split) != ("source", "val"):
            raise StoreIncompleteError(
                f"no labelled image of {domain}/{split} has features: name both domains in "
                "embed.domains and [train, val] in embed.splits, and run `ssr embed`"
            )
        spread[domain, split] = records[:: -(-len(records) // images) or 1]
    done, total, classes = count(1), sum(map(len, spread.values())), manifest.classes.names

    def images_of(part: Part) -> Iterator[Image]:
        """Read features at each level, a student's too, and the labels of their tokens."""
        for record in spread[part]:
            root, reader = roots[record.domain], readers[record.domain]
            spec = reader.header.spec
            label = read_train_ids(record, root, manifest.labels[record.domain])
            label = resize_label(label, record.resized_size_px)
            label = label_window(label, 0, 0, *record.working_size_px)
            image: dict[str, Labelled] = {}
            levels = {*map(upright, index.stores[record.domain].levels)}
            for level in sorted(levels, key=lambda n: (spec.level(n).stride_px, n)):
                h, w = reader.size_tok(record.image_id, level)
                ids = token_labels(label, spec.level(level).stride_px, len(classes))
                window = reader.window(record.image_id, level, 0, 0, h, w)
                image[f"teacher {level}"] = (window, ids)
            if network is not None:
                _, finest = next(iter(image.values()))
                resized = resize_image(read_raw(record, root), record.resized_size_px)
                pixels = normalised_window(resized, 0, 0, *record.working_size_px)
                with torch.inference_mode():
                    maps = network.features(torch.from_numpy(pixels)[None])
                for stage, own in enumerate(maps, 1):
                    image[f"student stage {stage}"] = (on_grid(own[0], finest.shape), finest)
            progress(next(done), total, "/".join(part))
            yield image

    tests = {"/".join(part): images_of(part) for part in TESTS if spread[part]}
    scores = probe(images_of(LEARN), tests, classes)
    teacher: Any = index.stores["source"].provenance["teacher"]
    return ProbeReport(teacher, len(spread[LEARN]), scores)


def probe(
    learn: Iterable[Image], tests: Mapping[str, Iterable[Image]], classes: Sequence[str]
) -> dict[tuple[str, str], Metrics]:
    """Learn a classifier of each kind of features; (features, test) -> its scores of tokens.

    Raises:
        DataError: No token of the images to learn from, or of a test, has a label.
    """
    rows: dict[str, list[tuple[NDArray[np.float32], NDArray[np.uint8]]]] = defaultdict(list)
    for image in learn:
        for name, (features, labels) in image.items():
            rows[name].append(labelled_tokens(features, labels, _MOST_TOKENS))
    probes = {}
    for name, parts in rows.items():
        ids = np.concatenate([labels for _, labels in parts])
        if not len(ids):
            raise DataError("none of the images to learn from has a labelled token: label some")
        probes[name] = LinearProbe(np.concatenate([part for part, _ in parts]), ids, len(classes))
    scores: dict[tuple[str, str], Metrics] = {}
    for test, images in tests.items():
        matrices = {name: ConfusionMatrix(len(classes)) for name in probes}
        seen = 0
        for seen, image in enumerate(images, start=1):  # noqa: B007
            for name, (features, labels) in image.items():
                matrices[name].update(probes[name].predict(features), labels)
        for name, matrix in matrices.items():
            scores[name, test] = Metrics.of(matrix, classes, images=seen)
    return scores


def on_grid(features: Tensor, size_tok: tuple[int, ...]) -> NDArray[np.float32]:
    """Bring features (C, h, w) of another stride to a token grid: averaged, or interpolated."""
    finer = features.shape[1] > size_tok[0]
    resized = F.interpolate(
        features[None].float(), size_tok, mode="bilinear", align_corners=False, antialias=finer
    )
    on: NDArray[np.float32] = resized[0].cpu().numpy()
    return on
