"""Writer of shards, whole and checked; each is recorded once it is on the disk."""

# C channels, h w tokens

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.codec import Bases, Codec, Scales
from store.errors import StoreError
from store.files import Url, files_at, join, one_line_for_os_errors, one_line_for_reads
from store.fingerprint import sha256
from store.header import basis_files, damaged, read_bases
from store.layout import encode_images
from store.lease import Part, commit
from store.ledger import ShardEntry, entry_file, entry_json
from store.spec import ImageEntry, LevelGrid, StoreSpec, shard_file, upright

Features = Mapping[str, Mapping[str, NDArray[Any]]]
"""level -> image id -> (C, h, w), float32 or float16, h and w the working size over the stride."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard that is not done.

    Attributes:
        images: Of each slot; None for an image that was removed.
        levels: Those that are missing, finest first.
    """

    shard: int
    images: tuple[ImageEntry | None, ...]
    levels: tuple[str, ...]


@dataclass(frozen=True)
class ShardWriter:
    """Write shards of one store under the lease of its `StoreWriter`.

    It pickles, so that other processes, also in other folders, can write for the one that holds
    the lease, which `token` names; they stop when that one ends.
    """

    url: Url
    spec: StoreSpec
    scales: Scales
    fingerprints: Mapping[str, str]
    part: Part
    token: str

    def read_bases(self, levels: Sequence[str]) -> Bases:
        """Read the bases of levels, which are too large to travel with every shard.

        StoreError where one is not what it was when the writer began.
        """
        files = files_at(self.url)
        with one_line_for_reads(self.url):
            bases = read_bases(files.read, self.spec, levels)
        for level in levels:
            if self.spec.level_fingerprint(level, self.scales, bases) != self.fingerprints[level]:
                raise damaged(files, basis_files(upright(level))[0])
        return bases

    def write(self, task: ShardTask, features: Features) -> None:
        """Write one shard of all levels of a task of `StoreWriter.pending`, whole, and record it.

        Raises:
            StoreBusyError: The lease has ended.
            StoreError: Features are not finite in the codec: nothing was written. Or the disk is
                full or read-only: other shards are as before.
        """
        scaled = Codec(self.spec.codec).scaled
        grids = {level: LevelGrid.of(self.spec, level) for level in task.levels}
        for level, grid in grids.items():
            assert not scaled or level in self.scales, f"fix_scales() of {level} comes first"
            for image in filter(None, task.images):
                _require_storable(level, grid, image, features[level][image.image_id])
        for level, grid in grids.items():
            data, statistics, saturated = encode_images(
                grid, self.scales.get(level), task.images, features[level]
            )
            entry = ShardEntry(
                format=self.spec.format,
                level=level,
                shard=task.shard,
                fingerprint=self.fingerprints[level],
                images=task.images,
                bytes=len(data),
                digest=sha256(data),
                saturated=saturated if scaled else None,
            )
            name, record = shard_file(level, task.shard), entry_file(level, task.shard)
            with one_line_for_os_errors(join(self.url, name)):
                # In this order a kill leaves an entry only beside the very bytes it is about.
                changes = [(record, None), (name, data), (record, entry_json(entry, statistics))]
                commit(files_at(self.url), self.part, self.token, changes)


def _require_storable(
    level: str, grid: LevelGrid, image: ImageEntry, features: NDArray[Any]
) -> None:
    expected = (grid.channels, *grid.image_size_tok(image.working_size_px))
    assert features.shape == expected, (level, image.image_id, features.shape, expected)
    bound = grid.codec.bound
    # Not isfinite: a float32 beyond 65504 would become Inf in float16.
    if features.dtype == np.float16:
        sound = (features.view(np.uint16) & 0x7FFF).max() < 0x7C00  # the bits of Inf
    else:
        sound = features.min() > -bound and features.max() < bound  # false of NaN
    if not sound:
        outside = features.size - int(np.count_nonzero(np.abs(features) < bound))
        raise StoreError(
            f"{level} features of {image.image_id}: {outside} of {features.size} values are NaN, "
            f"Inf or beyond {grid.codec.name}; check the teacher's weights and precision"
        )
