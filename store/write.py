"""The only code that changes a store: whole shards, each vouched for once it is on the disk."""

# C channels, h w tokens

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from store import atomic
from store.checks import check_features, check_images, check_keys
from store.codec import Codec
from store.errors import StoreError, StoreIncompleteError, StoreMismatchError
from store.fingerprint import fingerprint_of, sha256
from store.grid import LevelGrid, shard_count, shard_file, slots_of
from store.header import ROOT_FILE, RootAttributes, read_scales, read_spec
from store.index import LevelEntry, StoreEntry
from store.layout import encode_shard, skeleton
from store.ledger import LEDGER, Ledger, ShardEntry, Slot, assign_slots
from store.lock import writer_lock
from store.scale import Scales, check_scale, level_fingerprint
from store.spec import FORMAT, LEVELS, ImageEntry, StoreSpec, stride_of
from store.statistics import ChannelStatistics

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

    A context manager: entering takes the writer's lock, sweeps up after a killed writer, gives
    the images their slots and writes the metadata; features that are there already stay.

    Args:
        url: Folder of all stores; this one is `<url>/<domain>/<fingerprint8>.zarr`.
        spec: What the features are.
        images: All images that the store shall hold; those that it holds beside them become
            tombstones.
        levels: Levels to write; others that the store has are left as they are.

    Raises:
        StoreBusyError: On entering: another process writes to this store.
        StoreMismatchError: On entering: the folder holds a store of something else.
        StoreError: The images do not fit the specification, or the disk is full or read-only.
    """

    def __init__(
        self, url: Path, spec: StoreSpec, images: Sequence[ImageEntry], levels: Sequence[str]
    ) -> None:
        check_images(spec, images)
        self.path = url / spec.relative_path
        self.spec = spec
        self.levels = tuple(sorted(set(levels), key=stride_of))
        self._images = tuple(images)
        self._slots: tuple[Slot, ...] = ()
        self._scales: dict[str, NDArray[np.float32]] = {}
        self._ledger = Ledger(self.path)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with _one_line_for_os_errors(self.path):
            (self.path / LEDGER).mkdir(parents=True, exist_ok=True)
            with ExitStack() as stack:
                stack.enter_context(writer_lock(self.path / LEDGER))
                self._check_identity()
                self._sweep()
                self._slots = assign_slots(self._ledger.read_slots(), self._images)
                self._scales = dict(read_scales(self.path, self.spec, LEVELS))
                self._write_skeleton()
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
        check_keys("levels", "the scales", scales, self.unscaled)
        checked = {n: check_scale(n, scale, self.spec.channels) for n, scale in scales.items()}
        with _one_line_for_os_errors(self.path):
            self._scales |= checked
            self._write_skeleton()

    def pending(self) -> list[ShardTask]:
        """List the shards that are not done, by looking at ledger, existence and sizes."""
        tasks = []
        for shard in self._shards():
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
            self._write_level(level, task, features[level])

    def finalise(self) -> StoreEntry:
        """Return what the index says about this store.

        Raises:
            StoreIncompleteError: Shards are missing.
        """
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
            found = read_spec(self.path)
        except StoreMismatchError:
            raise
        except StoreError:
            return
        if (found.fingerprint, found.domain) != (self.spec.fingerprint, self.spec.domain):
            raise StoreMismatchError(
                f"{self.path} holds features of {found.domain} {found.fingerprint}, not of "
                f"{self.spec.domain} {self.spec.fingerprint}: move it away and run `ssr embed`"
            )

    def _sweep(self) -> None:
        """Remove temporary files of a writer that was killed; the lock says that none lives."""
        for leftover in self.path.rglob(f"*{atomic.TEMPORARY_SUFFIX}"):
            leftover.unlink()

    def _write_skeleton(self) -> None:
        scaled = Codec(self.spec.codec).scaled
        levels = [
            level
            for level in LEVELS
            if (level in self.levels or (self.path / level / ROOT_FILE).exists())
            and (level in self._scales or not scaled)
        ]
        for name, data in skeleton(self.spec, levels, self._slots, self._scales).items():
            atomic.update_bytes(self.path / name, data)

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
        codec, scale = grid.codec, self._scales.get(level)
        block = np.full(grid.shard_shape, codec.fill, codec.dtype)
        statistics, saturated = [], 0
        for row, image in enumerate(task.images):
            if image is not None:
                h, w = grid.image_size_tok(image.working_size_px)
                stored, clipped = codec.encode(features[image.image_id], scale)
                block[row, :, :h, :w] = stored
                statistics.append(ChannelStatistics.of(codec.decode(stored, scale)))
                saturated += clipped
        merged = ChannelStatistics.merge(statistics)
        assert merged is not None  # a task has at least one image
        data = encode_shard(block, grid)
        file = self.path / shard_file(level, task.shard)
        with _one_line_for_os_errors(file):
            # In this order a kill leaves an entry only beside the very bytes that it is about.
            self._ledger.withdraw(level, task.shard)
            atomic.write_bytes(file, data)
            self._ledger.write(
                ShardEntry(
                    format=FORMAT,
                    level=level,
                    shard=task.shard,
                    fingerprint=level_fingerprint(self.spec, level, self._scales),
                    images=task.images,
                    bytes=len(data),
                    digest=sha256(data),
                    saturated=saturated if codec.scaled else None,
                ),
                merged,
            )


@contextmanager
def _one_line_for_os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; make room or set permissions and run "
            "the command again, it continues after the shards that are done"
        ) from error
