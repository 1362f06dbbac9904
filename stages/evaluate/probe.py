"""Domain invariance of features: a linear classifier learns on the source, is scored on both.

It is trained on labelled tokens of the source, of the teacher's features in the stores and of a
student's own. Features that mean the same in both domains lose little on the target.

Legend: C channels, h w tokens, H W pixels, N tokens, K classes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.evaluate.model import open_model
from stages.prepare.labels import IGNORE
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import (
    label_window,
    normalised_window,
    read_raw,
    read_train_ids,
    resize_image,
    resize_label,
)
from stages.student.metrics import ConfusionMatrix
from stages.student.student import Student
from store.errors import CheckpointError, DataError, StoreIncompleteError
from store.files import Url, join
from store.index import Index
from store.read import FeatureReader

Progress = Callable[[int, int, str], None]

LEARN: Final[tuple[Domain, str]] = ("source", "train")
TESTS: Final[tuple[tuple[Domain, str], ...]] = (("source", "val"), ("target", "val"))

Labelled = tuple[NDArray[Any], NDArray[np.uint8]]
"""Features (C, h, w) of one image, and the labels (h, w) of its tokens."""
Image = Mapping[str, Labelled]
"""Name of the features -> one image's."""

_RIDGE: Final = 1e-4  # of the squared weights, beside the mean cross entropy
_STEPS: Final = 150
_MOST_TOKENS: Final = 512  # of one image that a classifier learns from


@dataclass(frozen=True, slots=True)
class Score:
    """What a classifier gets right.

    Attributes:
        images: Number of images.
        tokens: Number of their tokens that have a label.
        miou: Mean intersection over union of the tokens' classes, percent.
        accuracy: Share of tokens, percent.
        iou: Per class, percent; None where it is neither there nor found.
    """

    images: int
    tokens: int
    miou: float
    accuracy: float
    iou: tuple[float | None, ...]


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
    """Probe the stores that the index names, and a student.

    Args:
        manifest: The images.
        roots: Folder of each domain.
        stores: Where the paths of the index begin.
        index: The stores.
        images: Most images of each split, evenly spread over it.
        student: Folder of a student or run, whose features are probed too.
        progress: Called after each image.

    Raises:
        StoreError: There are no stores, they are damaged, or no labelled image of the target is
            in them.
        CheckpointError: There is no such student, or it is of other classes.
        DataError: An image changed since `ssr prepare`.
    """
    readers = {
        domain: FeatureReader(join(stores, entry.path)) for domain, entry in index.stores.items()
    }
    network = None
    if student is not None:
        model = open_model(student)
        if model.classes.names != manifest.classes.names:
            raise CheckpointError(
                f"{model.folder}: is of {len(model.classes)} other classes than the manifest's; "
                "give a student that was trained on these datasets"
            )
        network = model.network
    splits = {
        (domain, split): _spread(_embedded(manifest, readers, domain, split), images)
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
            domain = record.domain
            spec = readers[domain].header.spec
            levels = sorted(index.stores[domain].levels, key=lambda n: spec.level(n).stride_px)
            image = _read(record, roots[domain], readers[domain], manifest, levels, network)
            progress(next(counted), total, "/".join(part))
            yield image

    tests = {"/".join(part): images_of(part) for part in TESTS if splits[part]}
    scores = probe(images_of(LEARN), tests, len(manifest.classes))
    provenance = index.stores["source"].provenance["teacher"]
    assert isinstance(provenance, dict)
    return ProbeReport(provenance, tuple(manifest.classes.names), len(splits[LEARN]), scores)


class LinearProbe:
    """Multinomial logistic regression on standardised features; equal tokens give equal weights.

    Args:
        tokens: (N, C) float32, at least one.
        labels: (N,) class ids.
        classes: K.
    """

    def __init__(
        self, tokens: NDArray[np.float32], labels: NDArray[np.uint8], classes: int
    ) -> None:
        rows, ids = torch.from_numpy(tokens), torch.from_numpy(labels).long()
        self._mean = rows.mean(0)
        self._std = rows.std(0, correction=0).clamp(min=1e-6)
        self._weight, self._bias = _fit((rows - self._mean) / self._std, ids, classes)

    def predict(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Classify tokens (C, h, w): class ids (h, w)."""
        channels, height, width = features.shape
        rows = torch.from_numpy(features.reshape(channels, -1).T.astype(np.float32))
        logits = (rows - self._mean) / self._std @ self._weight + self._bias
        ids: NDArray[np.int64] = logits.argmax(1).reshape(height, width).numpy()
        return ids


def probe(
    learn: Iterable[Image], tests: Mapping[str, Iterable[Image]], classes: int
) -> dict[tuple[str, str], Score]:
    """Learn a classifier of each kind of features, and score it.

    Args:
        learn: Images to learn from.
        tests: Name of each test -> its images. These and the others are read once.
        classes: K.

    Returns:
        (name of the features, name of the test) -> score.

    Raises:
        DataError: No token of the images to learn from, or of a test, has a label.
    """
    rows: dict[str, list[tuple[NDArray[np.float32], NDArray[np.uint8]]]] = defaultdict(list)
    for image in learn:
        for name, (features, labels) in image.items():
            rows[name].append(_rows(features, labels))
    probes = {}
    for name, parts in rows.items():
        tokens, ids = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        if not len(ids):
            raise DataError("none of the images to learn from has a labelled token: label some")
        probes[name] = LinearProbe(tokens.astype(np.float32), ids.astype(np.uint8), classes)
    scores: dict[tuple[str, str], Score] = {}
    for test, images in tests.items():
        matrices = {name: ConfusionMatrix(classes) for name in probes}
        count = 0
        for image in images:
            count += 1
            for name, (features, labels) in image.items():
                matrices[name].update(probes[name].predict(features), labels)
        if not all(matrix.counts.any() for matrix in matrices.values()):
            raise DataError(f"none of the {count} images of {test} has a labelled token")
        scores |= {(name, test): _score(matrix, count) for name, matrix in matrices.items()}
    return scores


def _score(matrix: ConfusionMatrix, images: int) -> Score:
    iou = (None if np.isnan(share) else 100 * float(share) for share in matrix.iou())
    return Score(
        images=images,
        tokens=int(matrix.counts.sum()),
        miou=100 * matrix.mean_iou(),
        accuracy=100 * matrix.accuracy(),
        iou=tuple(iou),
    )


def token_labels(label: NDArray[np.uint8], stride: int, classes: int) -> NDArray[np.uint8]:
    """Give every token the class of most of its labelled pixels.

    Args:
        label: (H, W) class ids; 255 is ignored.
        stride: Pixels per token, divides H and W.
        classes: K.

    Returns:
        (h, w); 255 where no pixel of the token has a label. Of equals the lowest id wins.
    """
    height, width = (side // stride for side in label.shape)
    cells = label.reshape(height, stride, width, stride).swapaxes(1, 2).reshape(-1, stride**2)
    counts = np.stack([(cells == k).sum(1) for k in range(classes)], axis=1)  # (hw, K)
    ids = np.where(counts.any(1), counts.argmax(1), IGNORE).astype(np.uint8)
    return ids.reshape(height, width)


def on_grid(features: Tensor, size_tok: tuple[int, int]) -> NDArray[np.float32]:
    """Bring features (C, h, w) of another stride to a token grid: averaged, or interpolated."""
    finer = features.shape[1] > size_tok[0]
    resized = F.interpolate(
        features[None].float(), size_tok, mode="bilinear", align_corners=False, antialias=finer
    )
    on: NDArray[np.float32] = resized[0].cpu().numpy()
    return on


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


def _spread(records: Sequence[ImageRecord], most: int) -> Sequence[ImageRecord]:
    return records[:: max(1, -(-len(records) // most))]


def _read(
    record: ImageRecord,
    root: Path,
    reader: FeatureReader,
    manifest: Manifest,
    levels: Sequence[str],
    student: Student | None,
) -> Image:
    """Read an image's features at each level, a student's too, and the labels of their tokens."""
    label = read_train_ids(record, root, manifest.labels[record.domain])
    label = resize_label(label, record.resized_size_px)
    label = label_window(label, 0, 0, *record.working_size_px)
    image: dict[str, Labelled] = {}
    for level in levels:
        height, width = reader.size_tok(record.image_id, level)
        features = reader.window(record.image_id, level, 0, 0, height, width)
        ids = token_labels(label, reader.header.spec.level(level).stride_px, len(manifest.classes))
        image[f"teacher {level}"] = (features, ids)
    if student is not None:
        _, finest = image[f"teacher {levels[0]}"]
        resized = resize_image(read_raw(record, root), record.resized_size_px)
        window = normalised_window(resized, 0, 0, *record.working_size_px)
        with torch.inference_mode():
            maps = student.features(torch.from_numpy(window)[None])
        size_tok = (finest.shape[0], finest.shape[1])
        for stage, own in enumerate(maps, 1):
            image[f"student stage {stage}"] = (on_grid(own[0], size_tok), finest)
    return image


def _rows(
    features: NDArray[Any], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Take labelled tokens of an image, evenly spread: (n, C) and (n,)."""
    (places,) = np.nonzero(labels.ravel() != IGNORE)
    places = places[:: max(1, -(-len(places) // _MOST_TOKENS))]
    tokens = features.reshape(len(features), -1)[:, places].T
    return tokens.astype(np.float32), labels.ravel()[places]


def _fit(tokens: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Minimise the ridged cross entropy from zero; the same for the same tokens."""
    weight = torch.zeros(tokens.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(tokens @ weight + bias, labels) + _RIDGE * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
