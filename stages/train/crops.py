"""Training samples: a crop of a source and of a target image, with their windows of features.

A sample depends on (seed, sample index) alone, so that the number of loader processes and a resumed
run change nothing.

# B batch, C channels of a level, H W pixels of the crop, h w its tokens, N images, K classes
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stages.prepare.geometry import Box, crop_origin, flip
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
from stages.prepare.restyled import Restyled
from stages.train.adaptation.pseudo_labels import valid_pixels
from stages.train.config import RareClassConfig, TrainConfig
from stages.train.ranks import ALONE, Ranks
from store.errors import ConfigError, DataError, SSRError, TrainingError, is_out_of_memory
from store.read import FeatureReader, require_same_bases

if TYPE_CHECKING:
    from stages.train.prefix import Prefixes

SAMPLE_STREAM, STEP_STREAM, BOX_STREAM, DISTILL_STREAM, RESTYLE_STREAM, VIEW_STREAM = range(6)
"""Second word of every seed, so that samples and steps draw from different streams."""

TARGET_SHARE = 0.5
"""Share of labelled crops that show the target's few labelled images rather than the source.

As in semi-supervised adaptation, whose batches have as many labelled images of either domain: in
proportion to their number, eight images beside thousands would hardly be seen.
"""

REDRAWS = 10
"""Attempts after the first; official SSR hard-codes it for both rejections below."""

Rng = np.random.Generator | np.random.RandomState
"""NumPy's generator, or its legacy one, with which the official draws can be repeated."""

T = TypeVar("T")

Sample = dict[str, Any]
"""One crop of each domain: arrays by the names of `Batch`, labels uint8 and features float16."""


_ON_DEVICE: Final = {torch.uint8: torch.int64, torch.float16: torch.float32}
"""Type of what is loaded -> that of what a step computes with."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one step."""

    source_image: Tensor  # (B, 3, H, W), normalised; zero in the padding; labelled target ones too
    source_label: Tensor  # (B, H, W) int64; 255 is ignored
    source_features: dict[str, Tensor]  # level -> (B, C, h, w); empty where training reads none
    target_image: Tensor
    target_valid: Tensor  # (B, H, W) bool, pixels whose pseudo-label may be learned from
    target_features: dict[str, Tensor]
    target_probabilities: Tensor | None = None  # (B, K, h, w), stored probabilities; None if unread
    source_begun: Tensor | None = None  # (B, C, rows, columns) of `Prefixes`; no pixels then

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; labels become int64 and features float32 there."""

        def move(part: Any) -> Any:  # noqa: ANN401
            if part is None:
                return None
            if isinstance(part, dict):
                return {level: move(maps) for level, maps in part.items()}
            there = part.to(device, non_blocking=True)
            return there.to(_ON_DEVICE.get(there.dtype, there.dtype))

        return Batch(**{part.name: move(getattr(self, part.name)) for part in fields(self)})

    def __len__(self) -> int:
        """Images of each domain, B."""
        return len(self.source_label)


def redraw_until_enough(draw: Callable[[], T], enough: Callable[[T], bool]) -> T:
    """Draw until the result is good enough, 11 times at most; the last one is kept unchecked."""
    result = draw()
    for _ in range(REDRAWS):
        if enough(result):
            break
        result = draw()
    return result


def class_probabilities(
    pixel_counts: NDArray[np.int64], temperature: float
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Turn labelled pixels (N, K) into the probability of asking for each class.

    softmax((1 - share of all labelled pixels) / temperature), in float32 as the official code.

    Returns:
        The classes that occur, rarest first, and the probability of each.
    """
    totals = pixel_counts.sum(axis=0)
    order = np.argsort(totals, kind="stable")
    classes = order[totals[order] > 0].astype(np.int64)
    present = torch.from_numpy(totals[classes])
    share = present / present.sum()
    return classes, torch.softmax((1 - share) / temperature, dim=0).numpy()


class RareClassSampler:
    """Draws a class, rare ones more often, then one of the images that show enough of it.

    Counted are labelled pixels (N, K) at raw label resolution; the last `of_target` images are the
    target's.

    Raises:
        DataError: No image has a labelled pixel.
        ConfigError: A class occurs, but no image shows enough of it.
    """

    def __init__(
        self,
        pixel_counts: NDArray[np.int64],
        class_names: Sequence[str],
        config: RareClassConfig,
        of_target: int = 0,
    ) -> None:
        self._first_of_target = len(pixel_counts) - of_target
        self.min_crop_pixels = config.min_pixels * config.min_crop_ratio
        self.classes, self.probabilities = class_probabilities(pixel_counts, config.temperature)
        if len(self.classes) == 0:
            raise DataError(
                "rare class sampling: the source's training labels have no labelled pixel; "
                "check prepare.source and its label table"
            )
        self.eligible = pixel_counts > config.min_pixels  # (N, K)
        most = pixel_counts.max(axis=0)
        rarest = min(self.classes, key=lambda c: most[c])
        if most[rarest] <= config.min_pixels:
            raise ConfigError(
                f"rare class sampling: no image has more than {config.min_pixels} pixels of "
                f"{class_names[rarest]} (at most {most[rarest]}); set "
                f"train.rare_class_sampling.min_pixels to {most[rarest] - 1} or less"
            )

    def draw(self, rng: Rng) -> tuple[int, int]:
        """Draw a class id and the row of an image for it, in the official order."""
        class_id = int(rng.choice(self.classes, p=self.probabilities))
        rows = np.flatnonzero(self.eligible[:, class_id])
        return class_id, draw_row(rng, rows, self._first_of_target)

    def enough(self, label: NDArray[np.uint8], class_id: int) -> bool:
        """Say whether a crop's label (H, W) shows enough of the class that was asked for."""
        return int(np.count_nonzero(label == class_id)) > self.min_crop_pixels


def draw_row(rng: Rng, rows: NDArray[np.int64], first_of_target: int) -> int:
    """Draw one of some labelled images, of the target with `TARGET_SHARE` where both have any."""
    source, target = rows[rows < first_of_target], rows[rows >= first_of_target]
    if len(source) and len(target):
        rows = target if rng.random() < TARGET_SHARE else source
    return int(rng.choice(rows))


def varied(label: NDArray[np.uint8], max_share: float) -> bool:
    """Say whether a label (H, W) has several classes and none fills `max_share` of the labelled."""
    counts = np.delete(np.bincount(label.ravel(), minlength=256), IGNORE)
    return int(np.count_nonzero(counts)) > 1 and bool(counts.max() / counts.sum() < max_share)


class View(NamedTuple):
    """A crop of an image, in its working pixels."""

    box: Box
    mirrored: bool


def labelled_images(manifest: Manifest) -> tuple[ImageRecord, ...]:
    """Return the images that are drawn as source crops, those of the target at the end.

    Raises:
        DataError: The source has no training image.
    """
    target = manifest.select(domain="target", split="train")
    return _train_split(manifest, "source") + tuple(r for r in target if r.label is not None)


def label_in(label: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Cut a box out of a label (H, W)."""
    return label_window(label, box.y, box.x, box.height, box.width)


def pixels_of(resized: NDArray[np.uint8], view: View) -> NDArray[np.float32]:
    """Cut a view out of an image (H, W, 3): (3, h, w), normalised."""
    box = view.box
    window = normalised_window(resized, box.y, box.x, box.height, box.width)
    return flip(window) if view.mirrored else window


def draw_box(rng: np.random.Generator, record: ImageRecord, config: TrainConfig) -> Box:
    """Draw a crop of an image, uniformly."""
    side, align_px = config.crop_px, config.crop_align_px
    return Box(*crop_origin(rng, record.working_size_px, side, align_px), side, side)


def varied_box(
    rng: np.random.Generator, record: ImageRecord, label: NDArray[np.uint8], config: TrainConfig
) -> Box:
    """Draw a crop in which no class prevails, if one turns up soon."""
    most = config.crop_max_class_share
    return redraw_until_enough(
        lambda: draw_box(rng, record, config),
        lambda box: most >= 1 or varied(label_in(label, box), most),
    )


@dataclass(kw_only=True, eq=False)
class TrainingCrops(Dataset[Sample]):
    """Crops of both domains' `train` images by sample index, endlessly many.

    Labelled images of the target are drawn as source crops; target crops show its other images, if
    there are any. With `restyled`, some source crops are cut from restyled images, and their
    features are those of either image; with `prefixes`, they are among its views.

    Raises:
        DataError: A domain has no training image, or none is restyled.
        ConfigError: Rare class sampling asks for a class that no image shows enough of, or crops
            begin between the tokens of a level.
        StoreError: A store lacks a level.
    """

    config: TrainConfig
    manifest: InitVar[Manifest]
    roots: Mapping[Domain, Path]
    readers: Mapping[Domain, FeatureReader]
    labels: FeatureReader | None = None
    restyled: Restyled | None = None
    prefixes: "Prefixes | None" = None

    def __post_init__(self, manifest: Manifest) -> None:
        config, labels = self.config, self.labels
        restyled = self.restyled
        self._versions = restyled.versions("train") if restyled is not None else {}
        self._tables = manifest.labels
        require_same_bases(self.readers.values(), config.used_levels)
        for reader in self.readers.values():
            config.require_aligned(map(reader.header.spec.level, config.used_levels))
        if labels is not None:
            config.require_aligned(labels.header.spec.levels.values())
        self._labelled = labelled_images(manifest)
        of_target = sum(record.domain == "target" for record in self._labelled)
        self._first_of_target = len(self._labelled) - of_target
        self._target: tuple[ImageRecord, ...] = ()
        if config.self_training or config.distill:
            target = _train_split(manifest, "target")
            self._target = tuple(r for r in target if r.label is None) or target
        self._rare: RareClassSampler | None = None
        if config.rare_class_sampling is not None:
            counts = np.array([record.class_pixels for record in self._labelled], np.int64)
            names, rare = manifest.classes.names, config.rare_class_sampling
            self._rare = RareClassSampler(counts, names, rare, of_target)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.config.seed, SAMPLE_STREAM, index))
        config, read = self.config, self.config.regularizer.used_levels
        distilled = tuple(level for level in config.distilled_levels if level)
        if index < config.distill_steps * config.batch_size:
            source = self._source_crop(rng, index, distilled)
            return {**source, **self._target_crop(rng, distilled)}
        source = self._source_crop(rng, index, read)
        if config.distill is not None and config.distill.keep > 0:
            return {**source, **self._target_crop(rng, dict.fromkeys((*read, *distilled)))}
        if config.self_training is not None:
            return {**source, **self._target_crop(rng, read)}
        side = config.crop_px  # nothing reads the target: shapes stay, no image is decoded
        image, valid = np.zeros((3, side, side), np.float32), np.zeros((side, side), np.bool_)
        return {**source, "target_image": image, "target_valid": valid, "target_features": {}}

    def _source_crop(self, rng: np.random.Generator, index: int, levels: Iterable[str]) -> Sample:
        rare, config, class_id = self._rare, self.config, 0
        if rare is not None:
            class_id, row = rare.draw(rng)
        else:
            row = draw_row(rng, np.arange(len(self._labelled)), self._first_of_target)
        record = self._labelled[row]
        ids = read_train_ids(record, self.roots[record.domain], self._tables[record.domain])
        label = resize_label(ids, record.resized_size_px)
        views = () if self.prefixes is None else self.prefixes.views[record.image_id]

        def draw() -> View:
            if views:
                return views[int(rng.integers(len(views)))]
            return View(varied_box(rng, record, label, config), mirrored=False)

        # Differs from SSR: the crop alone is drawn again, not decoding and flip with it.
        view = redraw_until_enough(
            draw, lambda v: rare is None or rare.enough(label_in(label, v.box), class_id)
        )
        if not views:
            view = View(view.box, bool(rng.random() < config.flip_probability))
        crop, version = label_in(label, view.box), self._version(record, index)
        begun = None if self.prefixes is None else self.prefixes.read(record, view)
        if begun is not None:  # shapes stay, no image is decoded
            image = np.zeros((3, *crop.shape), np.float32)
        elif version is not None and self.restyled is not None:
            image = pixels_of(self.restyled.image(version), view)
        else:
            image = pixels_of(self._resized(record), view)
        if version is not None and config.restyled and config.restyled.features == "restyled":
            record = version
        sample = {
            "source_image": image,
            "source_label": flip(crop) if view.mirrored else crop,
            "source_features": self._features(record, view, levels),
        }
        if begun is not None:
            sample["source_begun"] = begun
        return sample

    def _target_crop(self, rng: np.random.Generator, levels: Iterable[str]) -> Sample:
        config, self_training = self.config, self.config.self_training
        record = self._target[int(rng.integers(len(self._target)))]
        box = draw_box(rng, record, config)
        view = View(box, bool(rng.random() < config.flip_probability))
        sides = 0 if config.student.hrda is None else config.student.hrda.margin_px
        top = 0 if self_training is None else self_training.ignore_top_px
        bottom = 0 if self_training is None else self_training.ignore_bottom_px
        valid = valid_pixels(
            origin_px=(box.y, box.x),
            crop_px=(box.height, box.width),
            image_px=record.resized_size_px,
            margins_px=(top, bottom, sides, sides),
        ).numpy()
        sample = {
            "target_image": pixels_of(self._resized(record), view),
            "target_valid": flip(valid) if view.mirrored else valid,
            "target_features": self._features(record, view, levels),
        }
        if self.labels is not None:
            (level,) = self.labels.header.levels
            sample["target_probabilities"] = _window(self.labels, record, level, view)
        return sample

    def _version(self, record: ImageRecord, index: int) -> ImageRecord | None:
        """Draw the restyled image that a source crop shows, if any; no other draw depends on it."""
        config, versions = self.config.restyled, self._versions.get(record.image_id, ())
        if config is not None and versions:
            rng = np.random.default_rng((self.config.seed, RESTYLE_STREAM, index))
            if rng.random() < config.probability:
                return versions[int(rng.integers(len(versions)))]
        return None

    def _resized(self, record: ImageRecord) -> NDArray[np.uint8]:
        return resize_image(read_raw(record, self.roots[record.domain]), record.resized_size_px)

    def _features(
        self, record: ImageRecord, view: View, levels: Iterable[str]
    ) -> dict[str, NDArray[np.float16]]:
        """Read the window of every one of these levels.

        Differs from SSR: features come from tiles of the whole image, not from the crop alone, and
        those of a mirrored crop are mirrored, though no teacher is quite flip-equivariant, unless
        the store holds those of mirrored images (`embed.flips`).
        """
        reader = self.readers.get(record.domain)
        if reader is None:
            return {}
        return {level: _window(reader, record, level, view) for level in levels}


def _window(
    reader: FeatureReader, record: ImageRecord, level: str, view: View
) -> NDArray[np.float16]:
    tok = view.box.to_tokens(reader.header.spec.level(level).stride_px)
    stored = reader.mirrored(level) if view.mirrored else level
    window = reader.window(record.image_id, stored, tok.y, tok.x, tok.height, tok.width)
    return flip(window) if view.mirrored else window


def batches(
    crops: Dataset[Sample],
    config: TrainConfig,
    *,
    start: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Load this rank's share of steps `start` to `config.total_steps`, on the CPU.

    Raises:
        DataError: An image or label is damaged, missing or not the one of the manifest.
        StoreError: Features are damaged or missing.
        TrainingError: The system ended a loader process, or had no memory for its batches.
    """
    size, rows = config.batch_size, ranks.rows(config.batch_size)
    loader = DataLoader(
        crops,
        # Samples are numbered through the run, whatever the number of ranks; randomness is in them.
        batch_sampler=[
            list(range(first + rows.start, first + rows.stop))
            for first in range(start * size, config.total_steps * size, size)
        ],
        num_workers=config.workers,
        # zarr's thread and the codecs do not survive a fork.
        multiprocessing_context="forkserver" if config.workers else None,
        worker_init_fn=end_with_parent,
        prefetch_factor=config.prefetch if config.workers else None,
        persistent_workers=False,
        pin_memory=device.type == "cuda",
    )
    try:
        yield from (Batch(**batch) for batch in loader)
    except (SSRError, OSError, MemoryError, RuntimeError) as error:
        if not config.workers:
            raise
        # A loader process sends its whole traceback as the message; our line is the last one.
        line = str(error).strip().rpartition("\n")[2]
        # Without its traceback nothing holds the loader, which then ends its processes at once.
        error = error.with_traceback(None)
        if isinstance(error, SSRError):
            raise type(error)(line.partition(": ")[2]) from error
        shortages = ("DataLoader worker", "shared memory", "No space left", "Too many open files")
        if not is_out_of_memory(error) and not any(words in line for words in shortages):
            raise
        raise TrainingError(
            f"a loader process failed ({line}): lower train.workers or train.prefetch, or see to "
            "memory and /dev/shm (in Docker --ipc=host); the last checkpoint is kept"
        ) from error


def end_with_parent(*_: object) -> None:
    """End this process when the one that started it is gone, also after `kill -9`.

    PyTorch's own watch of loader processes looks at the operating system's parent: here that is the
    forkserver, which lives on as long as they do, for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_split(manifest: Manifest, domain: Domain) -> tuple[ImageRecord, ...]:
    records = manifest.select(domain=domain, split="train")
    if not records:
        raise DataError(
            f"the manifest has no training image of the {domain}: set prepare.{domain} in "
            "params.yaml and run `ssr prepare`"
        )
    return records
