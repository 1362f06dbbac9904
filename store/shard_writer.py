"""The only code that writes features: whole shards, each vouched for once it is on the disk."""

# C channels, h w tokens

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from numpy.typing import NDArray

from store.checks import check_features, check_keys
from store.codec import Codec
from store.errors import StoreError
from store.files import Url, absolute, files_at, join, one_line_for_os_errors
from store.fingerprint import sha256
from store.grid import LevelGrid, shard_file
from store.layout import encode_images
from store.lease import Part, commit, owns
from store.ledger import ShardEntry, Skipped, entry_file, entry_json
from store.scale import Scales, level_fingerprint
from store.spec import ImageEntry, StoreSpec

Features = Mapping[str, Mapping[str, NDArray[Any]]]
"""level -> image id -> (C, h, w), float32 or float16, h and w the working size over the stride."""

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


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


@dataclass(frozen=True)
class ShardWriter:
    """Write shards of one store under the lease of its `StoreWriter`.

    It pickles, so that other processes can write for the one that holds the lease; they stop
    when that one ends.

    Attributes:
        url: The store.
        spec: What the features are.
        scales: The scale of each level, where the codec has one.
        part: Shards that the lease is about.
        token: Names the lease.
    """

    url: Url
    spec: StoreSpec
    scales: Scales
    part: Part
    token: str

    def absolute(self) -> "ShardWriter":
        """Return a writer that works in any folder."""
        return replace(self, url=absolute(self.url))

    def write(
        self, task: ShardTask, features: Features, skipped: Mapping[str, str] = NOTHING
    ) -> None:
        """Write one shard of all levels of a task, whole, and vouch for it.

        Args:
            task: A task of `StoreWriter.pending`.
            features: level -> image id -> (C, h, w), of exactly the task's levels and images.
            skipped: Images of the task that could not be read and have no features -> why.

        Raises:
            StoreBusyError: The lease has ended.
            StoreError: Features are missing, left over, not finite or of a wrong shape or type:
                nothing was written. Or the disk is full or read-only: other shards are as before.
        """
        assert owns(self.part, task.shard)
        scaled = Codec(self.spec.codec).scaled
        if bare := [level for level in task.levels if scaled and level not in self.scales]:
            raise StoreError(f"{', '.join(bare)} have no scale yet: fix_scales() first")
        images = [i for i in task.images if i is not None and i.image_id not in skipped]
        check_keys("levels", f"features of shard {task.shard}", features, task.levels)
        for level in task.levels:
            where = f"features of shard {task.shard}, {level}"
            check_keys("images", where, features[level], [image.image_id for image in images])
        for level in task.levels:
            for image in images:
                check_features(self.spec, level, image, features[level][image.image_id])
        files = files_at(self.url)
        left_out = tuple(
            Skipped(image, skipped[image.image_id])
            for image in task.images
            if image is not None and image.image_id in skipped
        )
        for level in task.levels:
            grid = LevelGrid.of(self.spec, level)
            data, statistics, saturated = encode_images(
                grid, self.scales.get(level), task.images, features[level]
            )
            entry = ShardEntry(
                format=self.spec.format,
                level=level,
                shard=task.shard,
                fingerprint=level_fingerprint(self.spec, level, self.scales),
                images=tuple(image if image in images else None for image in task.images),
                bytes=len(data),
                digest=sha256(data),
                saturated=saturated if grid.codec.scaled else None,
                skipped=left_out or None,
            )
            name = shard_file(level, task.shard)
            vouched = entry_file(level, task.shard)
            with one_line_for_os_errors(join(self.url, name)):
                # In this order a kill leaves an entry only beside the very bytes it is about.
                changes = [(vouched, None), (name, data), (vouched, entry_json(entry, statistics))]
                commit(files, self.part, self.token, changes)
