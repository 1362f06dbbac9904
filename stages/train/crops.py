"""Training samples: a crop of a source and of a target image, with their windows of features.

A sample depends on (seed, sample index) alone, so that the number of loader processes and a resumed
run change nothing. B batch, C channels of the teacher, H W pixels of the crop, h w its tokens, N
images, K classes.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stages.prepare.geometry import Box, Size, crop_origin, flip
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
from stages.train.adaptation.pseudo_labels import valid_pixels
from stages.train.config import RareClassConfig, TrainConfig
from stages.train.ranks import ALONE, Ranks
from store.errors import ConfigError, DataError, SSRError, TrainingError, is_out_of_memory
from store.read import FeatureReader

SAMPLE_STREAM, STEP_STREAM = 0, 1
"""Second word of every seed, so that samples and steps draw from different streams."""


REDRAWS = 10
"""Attempts after the first; official SSR hard-codes it for both rejections below."""

Rng = np.random.Generator | np.random.RandomState
"""NumPy's generator, or its legacy one, with which the official draws can be repeated."""

T = TypeVar("T")


class Sample(TypedDict):
    """One source and one target crop; float32 images, uint8 labels, float16 features."""

    source_image: NDArray[np.float32]
    source_label: NDArray[np.uint8]
    source_features: dict[str, NDArray[np.float16]]
    target_image: NDArray[np.float32]
    target_valid: NDArray[np.bool_]
    target_features: dict[str, NDArray[np.float16]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one step.

    Attributes:
        source_image: (B, 3, H, W), normalised; zero in the padding.
        source_label: (B, H, W) int64; 255 is ignored.
        source_features: Level -> (B, C, h, w); empty where training reads none.
        target_image: (B, 3, H, W).
        target_valid: (B, H, W) bool, pixels whose pseudo-label may be learned from.
        target_features: As for the source.
    """

    source_image: Tensor
    source_label: Tensor
    source_features: dict[str, Tensor]
    target_image: Tensor
    target_valid: Tensor
    target_features: dict[str, Tensor]

    def to(self, device: torch.device) -> "Batch":
        """Copy to a device; labels become int64 and features float32 there."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            source_image=move(self.source_image),
            source_label=move(self.source_label).long(),
            source_features={k: move(v).float() for k, v in self.source_features.items()},
            target_image=move(self.target_image),
            target_valid=move(self.target_valid),
            target_features={k: move(v).float() for k, v in self.target_features.items()},
        )

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
    """Turn class frequencies into the probability of asking for each class.

    softmax((1 - share of all labelled pixels) / temperature), in float32 as the official code.

    Args:
        pixel_counts: Labelled pixels (N, K) of each class in each image.
        temperature: Small values favour rare classes.

    Returns:
        The classes that occur, rarest first, and the probability of each.
    """
    totals = pixel_counts.sum(axis=0)
    order = np.argsort(totals, kind="stable")
    classes = order[totals[order] > 0].astype(np.int64)
    present = torch.from_numpy(totals[classes])
    share = present / present.sum()
    return classes, torch.softmax((1 - share) / temperature, dim=0).numpy()


def eligible(pixel_counts: NDArray[np.int64], min_pixels: int) -> NDArray[np.bool_]:
    """Say (N, K) which image may be drawn for which class: more than `min_pixels` of it."""
    return pixel_counts > min_pixels


class RareClassSampler:
    """Draws a class, rare ones more often, then one of the images that show enough of it.

    Args:
        pixel_counts: Labelled pixels (N, K) of each class, at raw label resolution.
        class_names: The K names, for messages.
        config: Temperature and thresholds.

    Raises:
        DataError: No image has a labelled pixel.
        ConfigError: A class occurs, but no image shows enough of it.
    """

    def __init__(
        self, pixel_counts: NDArray[np.int64], class_names: Sequence[str], config: RareClassConfig
    ) -> None:
        self.min_crop_pixels = config.min_pixels * config.min_crop_ratio
        self.classes, self.probabilities = class_probabilities(pixel_counts, config.temperature)
        if len(self.classes) == 0:
            raise DataError(
                "rare class sampling: the source's training labels have no labelled pixel; "
                "check prepare.source and its label table"
            )
        suits = eligible(pixel_counts, config.min_pixels)
        self._images = {int(c): np.flatnonzero(suits[:, c]) for c in self.classes}
        missing = [c for c, images in self._images.items() if len(images) == 0]
        if missing:
            most = pixel_counts.max(axis=0)
            found = ", ".join(f"{class_names[c]} (at most {most[c]})" for c in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ConfigError(
                f"rare class sampling: no image has more than {config.min_pixels} pixels of "
                f"{found}{more}; set train.rare_class_sampling.min_pixels to "
                f"{min(int(most[c]) for c in missing) - 1} or less"
            )

    def draw(self, rng: Rng) -> tuple[int, int]:
        """Draw a class id and the row of an image for it, in the official order."""
        class_id = int(rng.choice(self.classes, p=self.probabilities))
        return class_id, int(rng.choice(self._images[class_id]))

    def enough(self, label: NDArray[np.uint8], class_id: int) -> bool:
        """Say whether a crop's label (H, W) shows enough of the class that was asked for."""
        return int(np.count_nonzero(label == class_id)) > self.min_crop_pixels


def varied(label: NDArray[np.uint8], max_share: float) -> bool:
    """Say whether a label (H, W) has several classes and none fills `max_share` of the labelled."""
    counts = np.delete(np.bincount(label.ravel(), minlength=256), IGNORE)
    return int(np.count_nonzero(counts)) > 1 and bool(counts.max() / counts.sum() < max_share)


def draw_crop(
    rng: np.random.Generator,
    *,
    working_px: Size,
    crop_px: int,
    align_px: int,
    max_class_share: float,
    label_in: Callable[[Box], NDArray[np.uint8]] | None,
) -> Box:
    """Draw a crop in which no class prevails, if one turns up soon.

    Args:
        rng: Source of randomness.
        working_px: Size of the working image.
        crop_px: Side of the crop.
        align_px: Origins are multiples of this.
        max_class_share: `cat_max_ratio` of the official code; 1 takes the first crop.
        label_in: Gives the label (H, W) in a box of working pixels; None takes the first crop, as
            for target images, which have no label.
    """

    def draw() -> Box:
        y, x = crop_origin(rng, working_px, crop_px, align_px)
        return Box(y, x, crop_px, crop_px)

    if label_in is None or max_class_share >= 1:
        return draw()
    return redraw_until_enough(draw, lambda box: varied(label_in(box), max_class_share))


class TrainingCrops(Dataset[Sample]):
    """Crops of both domains by sample index, endlessly many.

    Args:
        config: Crops, flips, rare class sampling and the levels that are read.
        manifest: All images; their `train` split is drawn from.
        roots: Folder of each domain.
        readers: Feature store of each domain that training reads.

    Raises:
        DataError: A domain has no training image.
        ConfigError: Rare class sampling asks for a class that no image shows enough of, or crops
            begin between the tokens of a level.
        StoreError: A store lacks a level.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        manifest: Manifest,
        roots: Mapping[Domain, Path],
        readers: Mapping[Domain, FeatureReader],
    ) -> None:
        self._config = config
        self._roots = roots
        self._readers = readers
        for reader in readers.values():
            spec = reader.header.spec
            config.require_aligned({n: spec.level(n) for n in config.regularizer.used_levels})
        self._labels = manifest.labels["source"]
        self._source = _train_split(manifest, "source")
        self._target = _train_split(manifest, "target") if config.self_training else ()
        self._rare: RareClassSampler | None = None
        if config.rare_class_sampling is not None:
            counts = np.array([record.class_pixels for record in self._source], np.int64)
            self._rare = RareClassSampler(
                counts, manifest.classes.names, config.rare_class_sampling
            )

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self._config.seed, SAMPLE_STREAM, index))
        image, label, source_features = self._source_crop(rng)
        target_image, valid, target_features = self._target_crop(rng)
        return {
            "source_image": image,
            "source_label": label,
            "source_features": source_features,
            "target_image": target_image,
            "target_valid": valid,
            "target_features": target_features,
        }

    def _source_crop(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[str, NDArray[np.float16]]]:
        config, rare = self._config, self._rare
        class_id, row = rare.draw(rng) if rare else (None, int(rng.integers(len(self._source))))
        record = self._source[row]
        ids = read_train_ids(record, self._roots["source"], self._labels)
        label = resize_label(ids, record.resized_size_px)

        def label_in(box: Box) -> NDArray[np.uint8]:
            return label_window(label, box.y, box.x, box.height, box.width)

        def draw() -> Box:
            return draw_crop(
                rng,
                working_px=record.working_size_px,
                crop_px=config.crop_px,
                align_px=config.crop_align_px,
                max_class_share=config.crop_max_class_share,
                label_in=label_in,
            )

        if rare is None or class_id is None:
            box = draw()
        else:
            # Differs from SSR: the crop alone is drawn again, not decoding and flip with it.
            box = redraw_until_enough(draw, lambda box: rare.enough(label_in(box), class_id))
        mirrored = bool(rng.random() < config.flip_probability)
        image = self._image(record, box, mirrored)
        crop = label_in(box)
        return image, flip(crop) if mirrored else crop, self._features(record, box, mirrored)

    def _target_crop(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[str, NDArray[np.float16]]]:
        config, self_training = self._config, self._config.self_training
        side = config.crop_px
        if self_training is None:  # nothing reads the target: shapes stay, no image is decoded
            return np.zeros((3, side, side), np.float32), np.zeros((side, side), np.bool_), {}
        record = self._target[int(rng.integers(len(self._target)))]
        box = draw_crop(
            rng,
            working_px=record.working_size_px,
            crop_px=side,
            align_px=config.crop_align_px,
            max_class_share=1,
            label_in=None,
        )
        mirrored = bool(rng.random() < config.flip_probability)
        valid = valid_pixels(
            origin_px=(box.y, box.x),
            crop_px=(side, side),
            image_px=record.resized_size_px,
            ignore_top_px=self_training.ignore_top_px,
            ignore_bottom_px=self_training.ignore_bottom_px,
        ).numpy()
        image = self._image(record, box, mirrored)
        features = self._features(record, box, mirrored)
        return image, flip(valid) if mirrored else valid, features

    def _image(self, record: ImageRecord, box: Box, mirrored: bool) -> NDArray[np.float32]:
        raw = read_raw(record, self._roots[record.domain])
        resized = resize_image(raw, record.resized_size_px)
        window = normalised_window(resized, box.y, box.x, box.height, box.width)
        return flip(window) if mirrored else window

    def _features(
        self, record: ImageRecord, box: Box, mirrored: bool
    ) -> dict[str, NDArray[np.float16]]:
        """Read the window of every level in use.

        Differs from SSR: features come from tiles of the whole image, not from the crop alone, and
        those of a mirrored crop are mirrored, though SAM is only nearly flip-equivariant.
        """
        reader = self._readers.get(record.domain)
        if reader is None:
            return {}
        features: dict[str, NDArray[np.float16]] = {}
        for level in self._config.regularizer.used_levels:
            tok = box.to_tokens(reader.header.spec.level(level).stride_px)
            window = reader.window(record.image_id, level, tok.y, tok.x, tok.height, tok.width)
            features[level] = flip(window) if mirrored else window
        return features


def batches(
    crops: Dataset[Sample],
    config: TrainConfig,
    *,
    start: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """Load this rank's share of iterations `start` to `config.iterations`, on the CPU.

    Args:
        crops: The samples.
        config: Batch size, iterations and loader processes.
        start: First iteration, 0-based.
        device: Where the batches will go.
        ranks: Ranks that share each batch.

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
            for first in range(start * size, config.iterations * size, size)
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
        if not line.startswith("DataLoader worker") and not _lacks_memory(error, line):
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


def _lacks_memory(error: Exception, line: str) -> bool:
    shortages = ("No space left on device", "shared memory", "Too many open files")
    return is_out_of_memory(error) or any(words in line for words in shortages)


def _train_split(manifest: Manifest, domain: Domain) -> tuple[ImageRecord, ...]:
    records = manifest.select(domain=domain, split="train")
    if not records:
        raise DataError(
            f"the manifest has no training image of the {domain}: set prepare.{domain} in "
            "params.yaml and run `ssr prepare`"
        )
    return records
