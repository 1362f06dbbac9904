"""Scores of the student while it trains, and of how much its branch reads the teacher.

The wrong-teacher test measures the enhanced branch with the features of each image and with those
of another one. A branch that ignores its teacher loses nothing by that.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.prepare.geometry import Size
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import read_raw, read_train_ids
from stages.prepare.restyled import Restyled
from stages.student.hrda import logits_of
from stages.student.inference import predict_image
from stages.student.metrics import ConfusionMatrix, Metrics
from stages.student.student import Student
from stages.train.config import TrainConfig
from stages.train.regularizers.branch import Branch
from stages.train.workspace import Workspace
from store.errors import DataError, StoreError, StoreIncompleteError
from store.index import Index
from store.read import FeatureReader, open_features

MOST_IMAGES: Final = 50
"""Of the split that the branch is measured on, spread over it."""

_Shown = tuple[nn.Module, ImageRecord, NDArray[np.uint8]]
"""A network, a labelled image, and the pixels that it sees: its own, or those of a restyled one."""


@dataclass(frozen=True)
class WrongTeacherTest:
    """Images, each with the one of equal size whose features it gets too, and these features."""

    pairs: tuple[tuple[ImageRecord, ImageRecord], ...]
    levels: tuple[str, ...]
    reader: FeatureReader

    def features(self, record: ImageRecord, device: torch.device) -> dict[str, Tensor]:
        """Read all tokens of a working image, level -> float32 (1, C, h, w)."""
        reader, name = self.reader, record.image_id
        windows = {
            level: reader.window(name, level, 0, 0, *reader.size_tok(name, level))
            for level in self.levels
        }
        return {k: torch.from_numpy(v).float()[None].to(device) for k, v in windows.items()}


@dataclass(frozen=True)
class Validation:
    """Labelled `val` images of one domain that the student is measured on.

    Without a `wrong_teacher` its branch is not measured. With `restyled` the student sees every
    image as often as that was restyled, and never as it is.
    """

    records: tuple[ImageRecord, ...]
    manifest: Manifest
    roots: Mapping[Domain, Path]
    wrong_teacher: WrongTeacherTest | None = None
    restyled: Restyled | None = None

    @property
    def on(self) -> str:
        """What is measured on, for instance "31 images of target/val"."""
        restyled = "" if self.restyled is None else ", restyled"
        return f"{len(self.records)} images of {self.records[0].domain}/val{restyled}"

    @property
    def sees_target_labels(self) -> bool:
        """Whether the best student is chosen by labels that unsupervised adaptation lacks."""
        return self.records[0].domain == "target"

    def measure(self, student: Student, branch: Branch | None) -> dict[str, float]:
        """Score a student, and its branch where there is one; both keep their modes and weights.

        Returns:
            Mean IoU in percent, as of `ssr evaluate`: `miou`; of the branch `enhanced` with an
            image's own features, and `wrong_teacher` with another's.
        """
        test, device = self.wrong_teacher, next(student.parameters()).device
        with evaluating(student, branch):
            scores = {"miou": self._mean_iou(self._shown(student), device)}
            if branch is None or test is None:
                return scores
            for name, side in (("enhanced", 0), ("wrong_teacher", 1)):
                shown = (
                    (_Enhanced(student, branch, test.features(pair[side], device)).eval(), pair[0])
                    for pair in test.pairs
                )
                images = ((each, record, self._read(record)) for each, record in shown)
                scores[name] = self._mean_iou(images, device)
        return scores

    def _read(self, record: ImageRecord) -> NDArray[np.uint8]:
        return read_raw(record, self.roots[record.domain])

    def _shown(self, student: Student) -> Iterator[_Shown]:
        if self.restyled is None:
            yield from ((student, record, self._read(record)) for record in self.records)
            return
        versions = self.restyled.versions("val")
        for record in self.records:
            for version in versions.get(record.image_id, ()):
                yield student, record, self.restyled.image(version)

    def _mean_iou(self, shown: Iterable[_Shown], device: torch.device) -> float:
        """Score each image by its network, in percent."""
        matrix, count = ConfusionMatrix(len(self.manifest.classes)), 0
        for network, record, image in shown:
            labels = self.manifest.labels[record.domain]
            prediction = predict_image(network, image, record, device=device)
            matrix.update(prediction, read_train_ids(record, self.roots[record.domain], labels))
            count += 1
        return Metrics.of(matrix, self.manifest.classes.names, images=count).miou


def choose_validation(
    config: TrainConfig, manifest: Manifest, workspace: Workspace
) -> tuple[Validation | None, str | None]:
    """Choose what is measured, as `train.validate_on` says.

    Returns:
        The measurement, None where no image has a label; and why the wrong-teacher test is not part
        of it, None where it is or where no branch reads a teacher.

    Raises:
        DataError: `proxy` is asked for, and no labelled `val` image of the source is restyled.
    """
    domains: tuple[Domain, ...] = ("target", "source")
    if config.validate_on != "target":
        domains = ("source",)
    labelled = {
        domain: tuple(r for r in manifest.select(domain=domain, split="val") if r.label is not None)
        for domain in domains
    }
    records = next(filter(None, labelled.values()), ())
    test = without = restyled = None
    if config.regularizer.on:
        try:
            test = _wrong_teacher_test(config.regularizer.used_levels, labelled, workspace)
        except StoreError as error:
            without = f"no wrong-teacher test (does the branch read its teacher?): {error}"
    if config.validate_on == "proxy" and config.validate_every:
        restyled = Restyled.read(workspace.restyled, of=workspace.manifest)
        versions = restyled.versions("val")
        records = tuple(record for record in records if record.image_id in versions)
        if not records:
            raise DataError(
                "no restyled image of source/val has a label: choose another train.validate_on, or "
                "add labels and run `ssr prepare` and `ssr restyle`"
            )
    if not records:
        return None, without
    return Validation(records, manifest, workspace.roots, test, restyled), without


class _Enhanced(nn.Module):
    """The enhanced branch on the features of one image, as a network of images alone."""

    def __init__(self, student: Student, branch: Branch, features: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._parts = (student, branch)  # no submodules: their modes are not ours to change
        self._features = features

    def forward(self, image: Tensor) -> Tensor:
        student, branch = self._parts
        return logits_of(branch.logits(student, student.see(image), self._features))


@contextmanager
def evaluating(*networks: nn.Module | None) -> Iterator[None]:
    """Put networks in eval mode; each of their modules gets its own mode back."""
    present = [network for network in networks if network is not None]
    modes = [(each, each.training) for network in present for each in network.modules()]
    for network in present:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _wrong_teacher_test(
    levels: tuple[str, ...], labelled: Mapping[Domain, Sequence[ImageRecord]], workspace: Workspace
) -> WrongTeacherTest:
    """Pair images of the first domain with others of equal size, half of these away.

    Raises:
        StoreError: No two labelled val images of equal size are embedded.
    """
    for domain, records in labelled.items():
        groups: dict[Size, list[ImageRecord]] = defaultdict(list)
        for record in records[:: -(-len(records) // MOST_IMAGES) or 1]:
            groups[record.working_size_px].append(record)
        pairs = tuple(
            (record, group[(position + len(group) // 2) % len(group)])
            for group in groups.values()
            if len(group) > 1
            for position, record in enumerate(group)
        )
        if not pairs:
            continue
        images = {record.image_id: record.content for record, _ in pairs}
        index = Index.read(workspace.index)
        try:
            reader = open_features(workspace.stores, index, domain, levels=levels, images=images)
        except StoreIncompleteError as error:
            raise StoreIncompleteError(
                f"add val to embed.splits and run `ssr embed` ({error})"
            ) from error
        return WrongTeacherTest(pairs, levels, reader)
    raise StoreIncompleteError("there are no two labelled val images of equal size")
