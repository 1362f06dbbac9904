"""The wrong-teacher test: does the enhanced branch read its teacher?

It is measured with the features of each image and with those of another image. What it loses by
that is what it reads; a branch that ignores its teacher loses nothing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from stages.prepare.geometry import Size
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.reading import read_raw, read_train_ids
from stages.student.inference import predict_image
from stages.student.metrics import ConfusionMatrix, Metrics
from stages.student.student import Student
from stages.train.regularizers.branch import Branch
from store.errors import StoreIncompleteError
from store.files import Url
from store.index import Index
from store.read import FeatureReader, open_features
from store.spec import stride_of

MOST_IMAGES: Final = 50
"""Of the split that are measured, spread over it."""


@dataclass(frozen=True)
class WrongTeacherTest:
    """What is measured with which features.

    Attributes:
        pairs: Image, and the image of equal size whose features it gets in the second pass.
        levels: Levels that the branch reads.
        reader: Features of these images.
        manifest: Says how labels are read.
        root: Folder of their domain.
    """

    pairs: tuple[tuple[ImageRecord, ImageRecord], ...]
    levels: tuple[str, ...]
    reader: FeatureReader
    manifest: Manifest
    root: Path

    def __call__(self, student: Student, branch: Branch) -> dict[str, float]:
        """Measure student and branch in eval mode.

        Returns:
            Mean IoU in percent: `enhanced` with an image's own features, `wrong_teacher` with
            another's.
        """
        device = next(student.parameters()).device
        classes, labels = self.manifest.classes, self.manifest.labels
        matrices = {name: ConfusionMatrix(len(classes)) for name in ("enhanced", "wrong_teacher")}
        for record, other in self.pairs:
            image = read_raw(record, self.root)
            label = read_train_ids(record, self.root, labels[record.domain])
            for matrix, seen in zip(matrices.values(), (record, other), strict=True):
                network = _Enhanced(student, branch, self._features(seen, device)).eval()
                matrix.update(predict_image(network, image, record, device=device), label)
        return {
            name: Metrics.of(matrix, classes.names, images=len(self.pairs)).miou
            for name, matrix in matrices.items()
        }

    def _features(self, record: ImageRecord, device: torch.device) -> dict[str, Tensor]:
        """Read all tokens of a working image, level -> float32 (1, C, h, w)."""
        features = {}
        for level in self.levels:
            h, w = (side // stride_of(level) for side in record.working_size_px)
            window = self.reader.window(record.image_id, level, 0, 0, h, w)
            features[level] = torch.from_numpy(window).float()[None].to(device)
        return features


class _Enhanced(nn.Module):
    """The enhanced branch on the features of one image, as a network of images alone."""

    def __init__(self, student: Student, branch: Branch, features: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._parts = (student, branch)  # no submodules: their modes are not ours to change
        self._features = features

    def forward(self, image: Tensor) -> Tensor:
        student, branch = self._parts
        return branch.logits(student, student.features(image), self._features)


def wrong_teacher_test(
    manifest: Manifest,
    roots: Mapping[Domain, Path],
    *,
    index: Index,
    store_url: Url,
    levels: Sequence[str],
) -> WrongTeacherTest:
    """Choose images for the test: labelled `val` images of the target, else of the source.

    Args:
        manifest: Of both domains.
        roots: Folder of each domain.
        index: The current stores.
        store_url: Folder of all stores.
        levels: Levels that the branch reads.

    Raises:
        StoreError: No two labelled val images of equal size are embedded.
    """
    domains: tuple[Domain, ...] = ("target", "source")
    for domain in domains:
        labelled = [r for r in manifest.select(domain=domain, split="val") if r.label is not None]
        if not labelled:
            continue
        every = -(-len(labelled) // MOST_IMAGES)
        pairs = _pairs(labelled[::every])
        if pairs:
            images = {record.image_id: record.content for record, _ in pairs}
            reader = open_features(store_url, index, domain, levels=levels, images=images)
            return WrongTeacherTest(pairs, tuple(levels), reader, manifest, roots[domain])
    raise StoreIncompleteError("there are no two labelled val images of equal size")


def _pairs(records: Sequence[ImageRecord]) -> tuple[tuple[ImageRecord, ImageRecord], ...]:
    """Pair each image with one half a group away, among those of its working size."""
    groups: dict[Size, list[ImageRecord]] = defaultdict(list)
    for record in records:
        groups[record.working_size_px].append(record)
    return tuple(
        (record, group[(position + len(group) // 2) % len(group)])
        for group in groups.values()
        if len(group) > 1
        for position, record in enumerate(group)
    )
