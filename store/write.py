"""The only code that changes a store: whole shards, each vouched for once it is on the disk."""

# C channels, h w tokens

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store.checks import check_features, check_images, check_keys
from store.codec import Codec
from store.errors import (
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreMissingError,
)
from store.fingerprint import fingerprint_of, sha256
from store.grid import LevelGrid, shard_count, shard_file, slots_of
from store.header import (
    METADATA_FILE,
    ROOT_FILE,
    RootAttributes,
    read_metadata,
    read_scales,
    read_spec,
)
from store.index import LevelEntry, StoreEntry
from store.layout import encode_images, skeleton
from store.lease import WHOLE, Check, Part, check_part, owns, writer_lease
from store.ledger import Ledger, ShardEntry, Slot, assign_slots
from store.scale import Scales, check_scale, level_fingerprint
from store.spec import FORMAT, LEVELS, ImageEntry, StoreSpec, stride_of
from store.url import Url, exists, files_at, join, one_line_for_os_errors, update

Features = Mapping[str, Mapping[str, NDArray[Any]]]
"""level -> image id -> (C, h, w), float32 or float16, h and w the working size over the stride."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard that is not done.

    Attributes:
        shard: Number of the shard.
        images: The image of each slot; None for an image that was removed.
        levels: Levels that are missing, finest first.
    """

    shard: int
    images: tuple[ImageEntry | None, ...]
    levels: tuple[str, ...]


class StoreWriter:
    """Bring the store of a specification up to date with a set of images.

    A context manager: entering takes the writer's lease, sweeps up after a killed writer, gives
    the images their slots and writes the metadata; features that are there already stay.

    Several writers share the work as parts: each writes its own shards only, and finds the metadata
    as a writer of the whole store left it, which `fix_scales` and `finalise` belong to as well.

    Args:
        url: Folder or S3 prefix of all stores; this one is `<url>/<domain>/<fingerprint8>.zarr`.
        spec: What the features are.
        images: All images that the store shall hold; those that it holds beside them become
            tombstones.
        levels: Levels to write; others that the store has are left as they are.
        part: (i, n): the shards whose number leaves i - 1 when divided by n; (1, 1) is the whole.

    Raises:
        StoreBusyError: On entering: another process writes to this store, or to shards of the part.
        StoreIncompleteError: On entering a part: the metadata is not there or of other images.
        StoreMismatchError: On entering: the folder holds a store of something else.
        StoreError: The images do not fit the specification, or the disk is full or read-only.
    """

    def __init__(
        self,
        url: Url,
        spec: StoreSpec,
        images: Sequence[ImageEntry],
        levels: Sequence[str],
        *,
        part: Part = WHOLE,
    ) -> None:
        check_images(spec, images)
        check_part(part)
        self.path = join(url, spec.relative_path)
        self._files = files_at(url).below(spec.relative_path)
        self.spec = spec
        self.part = part
        self.levels = tuple(sorted(set(levels), key=stride_of))
        self._images = tuple(images)
        self._slots: tuple[Slot, ...] = ()
        self._scales: dict[str, NDArray[np.float32]] = {}
        self._ledger = Ledger(self._files)
        self._check_lease: Check = lambda: None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with one_line_for_os_errors(self.path), ExitStack() as stack:
            self._check_lease = stack.enter_context(writer_lease(self._files, self.part))
            self._check_identity()
            self._slots = assign_slots(self._ledger.read_slots(), self._images)
            self._scales = dict(read_scales(self._files, self.spec, LEVELS))
            if self.part == WHOLE:
                self._files.sweep()
                self._write_skeleton()
            else:
                self._demand_skeleton()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def unscaled(self) -> tuple[str, ...]:
        """Levels that cannot be written before `fix_scales`; none unless the codec has scales."""
        scaled = Codec(self.spec.codec).scaled
        return tuple(level for level in self.levels if scaled and level not in self._scales)

    def fix_scales(self, scales: Scales) -> None:
        """Record the scales of the unscaled levels; they hold for ever after.

        Args:
            scales: level -> (C,), for instance by `estimate_scale` over `scale_sample`.

        Raises:
            StoreError: They are of other levels, not (C,), or not positive; or cannot be written.
        """
        assert self.part == WHOLE
        check_keys("levels", "the scales", scales, self.unscaled)
        checked = {n: check_scale(n, scale, self.spec.channels) for n, scale in scales.items()}
        with one_line_for_os_errors(self.path):
            self._scales |= checked
            self._write_skeleton()

    def pending(self) -> list[ShardTask]:
        """List the shards of the part that are not done, by looking at ledger and sizes."""
        tasks = []
        for shard in self._shards():
            if not owns(self.part, shard):
                continue
            images = self._wanted(shard)
            levels = tuple(level for level in self.levels if not self._is_done(level, shard))
            if levels:
                tasks.append(ShardTask(shard, images, levels))
        return tasks

    def write_shard(self, task: ShardTask, features: Features) -> None:
        """Write one shard of all levels of a task, whole, and vouch for it.

        Args:
            task: A task of `pending`.
            features: level -> image id -> (C, h, w), of exactly the task's levels and images.

        Raises:
            StoreError: Features are missing, left over, not finite or of a wrong shape or type:
                nothing was written. Or the disk is full or read-only: other shards are as before.
        """
        if task.images != self._wanted(task.shard):
            raise StoreError(f"shard {task.shard} has other images now: ask for pending() again")
        assert owns(self.part, task.shard)
        if self.unscaled:
            raise StoreError(f"{', '.join(self.unscaled)} have no scale yet: fix_scales() first")
        check_keys("levels", f"features of shard {task.shard}", features, task.levels)
        ids = [image.image_id for image in task.images if image is not None]
        for level in task.levels:
            check_keys("images", f"features of shard {task.shard}, {level}", features[level], ids)
        for level in task.levels:
            for image in filter(None, task.images):
                check_features(self.spec, level, image, features[level][image.image_id])
        for level in task.levels:
            self._check_lease()
            self._write_level(level, task, features[level])

    def finalise(self) -> StoreEntry:
        """Return what the index says about this store.

        Raises:
            StoreIncompleteError: Shards are missing.
        """
        assert self.part == WHOLE
        levels: dict[str, LevelEntry] = {}
        for level in self.levels:
            digests: list[str | None] = []
            for shard in self._shards():
                entry = self._vouched(level, shard)
                if entry is None and any(self._wanted(shard)):
                    raise StoreIncompleteError(
                        f"shard {shard} of {level} is missing in the store {self.path}: "
                        "run `ssr embed`"
                    )
                digests.append(entry.digest if entry and any(self._wanted(shard)) else None)
            levels[level] = LevelEntry(
                fingerprint=level_fingerprint(self.spec, level, self._scales),
                shards=tuple(digests),
            )
        live = [slot.image for slot in self._slots if slot.live]
        return StoreEntry(
            path=self.spec.relative_path,
            fingerprint=self.spec.fingerprint,
            provenance=RootAttributes.of(self.spec).provenance,
            images=len(live),
            images_digest=fingerprint_of(sorted((i.image_id, i.content) for i in live)),
            levels=levels,
        )

    def _check_identity(self) -> None:
        """Refuse a folder that holds something else; a damaged root file is mended."""
        try:
            found = read_spec(self._files)
        except StoreMismatchError:
            raise
        except StoreError:
            return
        if (found.fingerprint, found.domain) != (self.spec.fingerprint, self.spec.domain):
            raise StoreMismatchError(
                f"{self.path} holds features of {found.domain} {found.fingerprint}, not of "
                f"{self.spec.domain} {self.spec.fingerprint}: move it away and run `ssr embed`"
            )

    def _demand_skeleton(self) -> None:
        """Refuse to write a part of a store whose metadata is not that of these images."""
        try:
            found = read_metadata(self._files)
        except StoreMissingError:
            found = None
        if self.unscaled or found != self._skeleton()[METADATA_FILE]:
            raise StoreIncompleteError(
                f"the store {self.path} is not ready for parts: run `ssr embed --init` first, "
                "with the same params and manifest"
            )

    def _write_skeleton(self) -> None:
        for name, data in self._skeleton().items():
            update(self._files, name, data)

    def _skeleton(self) -> dict[str, bytes]:
        scaled = Codec(self.spec.codec).scaled
        levels = [
            level
            for level in LEVELS
            if (level in self.levels or exists(self._files, f"{level}/{ROOT_FILE}"))
            and (level in self._scales or not scaled)
        ]
        return skeleton(self.spec, levels, self._slots, self._scales)

    def _shards(self) -> range:
        return range(shard_count(len(self._slots), self.spec.shard_images))

    def _wanted(self, shard: int) -> tuple[ImageEntry | None, ...]:
        slots = slots_of(shard, len(self._slots), self.spec.shard_images)
        return tuple(self._slots[s].image if self._slots[s].live else None for s in slots)

    def _vouched(self, level: str, shard: int) -> ShardEntry | None:
        return self._ledger.vouched(
            level,
            shard,
            fingerprint=level_fingerprint(self.spec, level, self._scales),
            images=self._wanted(shard),
        )

    def _is_done(self, level: str, shard: int) -> bool:
        return not any(self._wanted(shard)) or self._vouched(level, shard) is not None

    def _write_level(
        self, level: str, task: ShardTask, features: Mapping[str, NDArray[Any]]
    ) -> None:
        grid = LevelGrid.of(self.spec, level)
        data, statistics, saturated = encode_images(
            grid, self._scales.get(level), task.images, features
        )
        entry = ShardEntry(
            format=FORMAT,
            level=level,
            shard=task.shard,
            fingerprint=level_fingerprint(self.spec, level, self._scales),
            images=task.images,
            bytes=len(data),
            digest=sha256(data),
            saturated=saturated if grid.codec.scaled else None,
        )
        name = shard_file(level, task.shard)
        with one_line_for_os_errors(join(self.path, name)):
            # In this order a kill leaves an entry only beside the very bytes that it is about.
            self._ledger.withdraw(level, task.shard)
            self._files.write(name, data)
            self._ledger.write(entry, statistics)
