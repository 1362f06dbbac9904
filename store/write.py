"""Writer of a store: its slots, metadata and scales, and the shards that are still to be made."""

# C channels, h w tokens

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.codec import Bases, Basis, Codec, Scales, check_scale
from store.errors import (
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreMissingError,
    StoreUnreadableError,
)
from store.files import (
    Url,
    exists,
    files_at,
    join,
    one_line_for_os_errors,
    one_line_for_reads,
)
from store.fingerprint import fingerprint_of, sha256
from store.header import (
    ROOT_FILE,
    RootAttributes,
    read_bases,
    read_digests,
    read_levels,
    read_scales,
    read_spec,
)
from store.index import LevelEntry, StoreEntry
from store.layout import skeleton
from store.lease import WHOLE, Change, Part, check_part, commit, owns, writer_lease
from store.ledger import (
    LEDGER,
    SLOTS_FILE,
    ShardEntry,
    Slot,
    assign_slots,
    has_file,
    read_slots,
    recorded,
    slots_json,
    wanted_images,
)
from store.shard_writer import Features, ShardTask, ShardWriter
from store.spec import (
    NO_BASES,
    ImageEntry,
    Level,
    StoreSpec,
    check_images,
    shard_count,
    shard_of,
    upright,
)


class StoreWriter:
    """Bring the store of a specification up to date with a set of images.

    A context manager: entering looks at the store first. Where it holds all that it should, nothing
    is written and nobody is kept from writing, so it may be read-only or somebody else's. Otherwise
    this takes the writer's lease, sweeps up after a killed writer, gives the images their slots and
    writes the metadata; features that are there already stay.

    Several writers share the work as parts: each writes its own shards only, and finds the metadata
    as a writer of the whole store left it, which `fix_scales` and `finalise` belong to as well.

    Args:
        url: Folder or S3 prefix of all stores; this one is `<url>/<domain>/<fingerprint8>.zarr`.
        images: All images that the store shall hold; those that it holds beside them become
            tombstones.
        levels: Levels to write; others that the store has are left as they are.
        part: Of the shards; see `store.lease`.

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
        files_at(url)  # refuses what is no place
        self._files = files_at(self.path)
        self.spec = spec
        self.part = part
        self.levels = tuple(
            sorted(set(levels), key=lambda name: (spec.level(name).stride_px, name))
        )
        self._images = tuple(images)
        self._slots: tuple[Slot, ...] = ()
        self._scales: dict[str, NDArray[np.float32]] = {}
        self._bases: dict[str, Basis] = {}
        self._seen: dict[tuple[str, int], ShardEntry] = {}
        self._lease: str | None = None  # its token
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with one_line_for_reads(self.path):
            self._look()
            idle = not (self.unready or self._stale() or any(self._pending()))
        if not idle:
            self._take_lease()
        return self

    def _look(self) -> None:
        self._check_identity()
        self.spec = replace(self.spec, levels=self._kept_levels() | dict(self.spec.levels))
        self._bases = dict(read_bases(self._files, self.spec, self.spec.levels))
        # where the basis was lost, the scale is one of numbers that may not come again
        known = [
            n for n in self.spec.levels if upright(n) in self._bases or not self.spec.projected
        ]
        self._scales = dict(read_scales(self._files, self.spec, known))
        self._slots = assign_slots(self._known_slots(), self._images)

    def _kept_levels(self) -> dict[str, Level]:
        """Return levels that the store has beside those of the specification, from sound files."""
        try:
            return read_levels(self._files, self.spec, self._digests())
        except StoreUnreadableError:
            raise
        except StoreError:
            return {}

    def _digests(self) -> dict[str, str]:
        try:
            return read_digests(self._files) or {}
        except StoreMissingError:
            return {}

    def _known_slots(self) -> tuple[Slot, ...]:
        """Read the slots; none where the store does not say, or says what no store can hold.

        A list that is not the one of the metadata is damaged, or its write was interrupted: what
        the entries of the shards say goes before it.
        """
        slots = read_slots(self._files)
        if self._digests().get(SLOTS_FILE) != sha256(slots_json(slots, self.spec.format)):
            slots = self._slots_by_entries(slots)
        try:
            check_images(self.spec, [slot.image for slot in slots])
        except StoreError:
            return ()
        return slots

    def _slots_by_entries(self, listed: Sequence[Slot]) -> tuple[Slot, ...]:
        held, shard_images = dict(enumerate(listed)), self.spec.shard_images
        coarsest_first = sorted(
            self.spec.levels, key=lambda name: self.spec.level(name).stride_px, reverse=True
        )
        for level in coarsest_first:
            fingerprint = self._fingerprint(level)
            for shard in map(shard_of, self._files.names(f"{LEDGER}/{level}")):
                if shard is None:
                    continue
                entry = recorded(self._files, level, shard, fingerprint=fingerprint)
                images = entry.images[:shard_images] if entry is not None else ()
                for slot, image in enumerate(images, start=shard * shard_images):
                    if image is not None:
                        held[slot] = Slot(image, live=False)
        return tuple(held[n] for n in sorted(held)) if max(held, default=-1) < len(held) else ()

    def _take_lease(self) -> None:
        with one_line_for_os_errors(self.path), ExitStack() as stack:
            self._lease = stack.enter_context(writer_lease(self._files, self.part))
            self._seen.clear()
            self._look()  # again: others may have written until now
            if self.part == WHOLE:
                self._files.sweep()
                self._write_skeleton()
            else:
                self._require_skeleton()
            self._stack = stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def unscaled(self) -> tuple[str, ...]:
        """Levels that cannot be written before `fix_scales`; none unless the codec has scales."""
        scaled = Codec(self.spec.codec).scaled
        return tuple(level for level in self.levels if scaled and level not in self._scales)

    @property
    def unprojected(self) -> tuple[str, ...]:
        """Levels that have no basis yet; none unless the store holds principal components."""
        levels = dict.fromkeys(map(upright, self.levels)) if self.spec.projected else ()
        return tuple(level for level in levels if level not in self._bases)

    @property
    def unready(self) -> tuple[str, ...]:
        """Levels that lack scale or basis."""
        return tuple(dict.fromkeys((*self.unprojected, *self.unscaled)))

    @property
    def bases(self) -> Bases:
        """Bases that are fixed."""
        return self._bases

    def fix_scales(self, scales: Scales, bases: Bases = NO_BASES) -> None:
        """Record scales (C,) and bases of the levels without; they hold for ever after.

        Raises:
            StoreError: Scales are not positive, or something cannot be written.
        """
        assert self.part == WHOLE
        assert scales.keys() == set(self.unscaled), (scales.keys(), self.unscaled)
        assert bases.keys() == set(self.unprojected), (bases.keys(), self.unprojected)
        if scales or bases:
            self._bases |= bases
            self._scales |= {
                n: check_scale(n, scale, self.spec.level(n).channels) for n, scale in scales.items()
            }
            with one_line_for_os_errors(self.path):
                self._write_skeleton()

    @property
    def shards(self) -> ShardWriter:
        """What writes shards under this writer's lease, here or in a process that works for it."""
        assert self._lease is not None, "a StoreWriter is a context manager"
        fingerprints = {level: self._fingerprint(level) for level in self.levels}
        return ShardWriter(self.path, self.spec, self._scales, fingerprints, self.part, self._lease)

    def _fingerprint(self, level: str) -> str:
        return self.spec.level_fingerprint(level, self._scales, self._bases)

    def pending(self) -> list[ShardTask]:
        """List the shards of the part that are not done, by looking at ledger and sizes."""
        return list(self._pending())

    def write_shard(self, task: ShardTask, features: Features) -> None:
        """Write one shard of a task of the last `pending`; see `ShardWriter.write`."""
        assert task.images == self._wanted(task.shard), "ask for pending() again"
        self.shards.write(task, features)

    def finalise(self) -> StoreEntry:
        """Return what the index says; StoreIncompleteError where shards are missing."""
        assert self.part == WHOLE
        if self._lease is not None:
            self._files.sweep()  # a process that wrote for this one may have been killed
        levels: dict[str, LevelEntry] = {}
        for level in self.levels:
            digests: list[str | None] = []
            for shard in self._shards():
                wanted = self._wanted(shard)
                entry = self._done(level, shard) if any(wanted) else None
                if entry is None and any(wanted):
                    raise StoreIncompleteError(
                        f"shard {shard} of {level} is missing in the store {self.path}: "
                        "run `ssr embed`"
                    )
                digests.append(entry.digest if entry else None)
            fingerprint = self._fingerprint(level)
            levels[level] = LevelEntry(fingerprint=fingerprint, shards=tuple(digests))
        stored = [slot.image for slot in self._slots if slot.live]
        return StoreEntry(
            path=self.spec.relative_path,
            fingerprint=self.spec.fingerprint,
            provenance=RootAttributes.of(self.spec).provenance,
            images=len(stored),
            images_digest=fingerprint_of(sorted((i.image_id, i.content) for i in stored)),
            levels=levels,
        )

    def _check_identity(self) -> None:
        """Refuse a folder that holds something else; a damaged root file is repaired."""
        try:
            found = read_spec(self._files)
        except (StoreMismatchError, StoreUnreadableError):
            raise
        except StoreError:
            return
        if (found.fingerprint, found.domain) != (self.spec.fingerprint, self.spec.domain):
            raise StoreMismatchError(
                f"{self.path} holds features of {found.domain} {found.fingerprint}, not of "
                f"{self.spec.domain} {self.spec.fingerprint}: move it away and run `ssr embed`"
            )

    def _require_skeleton(self) -> None:
        """Refuse to write a part of a store whose metadata is not that of these images."""
        if self.unready or self._stale():
            raise StoreIncompleteError(
                f"the store {self.path} is not ready for parts: run `ssr embed --init` first, "
                "with the same params and manifest"
            )

    def _write_skeleton(self) -> None:
        assert self._lease is not None
        if stale := self._stale():
            commit(self._files, self.part, self._lease, stale)

    def _stale(self) -> list[Change]:
        """Return the metadata files that are missing or of something else, as they should be."""
        stale: list[Change] = []
        for name, data in self._skeleton().items():
            try:
                if self._files.read(name) == data:
                    continue
            except FileNotFoundError:
                pass
            stale.append((name, data))
        return stale

    def _skeleton(self) -> dict[str, bytes]:
        scaled = Codec(self.spec.codec).scaled
        levels = [
            level
            for level in self.spec.levels
            if (level in self.levels or exists(self._files, f"{level}/{ROOT_FILE}"))
            and (level in self._scales or not scaled)
            and (upright(level) in self._bases or not self.spec.projected)
        ]
        return skeleton(self.spec, levels, self._slots, self._scales, self._bases)

    def _shards(self) -> range:
        return range(shard_count(len(self._slots), self.spec.shard_images))

    def _wanted(self, shard: int) -> tuple[ImageEntry | None, ...]:
        return wanted_images(self._slots, shard, self.spec.shard_images)

    def _pending(self) -> Iterator[ShardTask]:
        for shard in self._shards():
            images = self._wanted(shard)
            if owns(self.part, shard) and any(images):
                levels = tuple(level for level in self.levels if not self._done(level, shard))
                if levels:
                    yield ShardTask(shard, images, levels)

    def _done(self, level: str, shard: int) -> ShardEntry | None:
        """Return the entry of a shard that is done."""
        if (level, shard) in self._seen:
            return self._seen[level, shard]
        fingerprint = self._fingerprint(level)
        with one_line_for_reads(self.path):
            entry = recorded(
                self._files, level, shard, fingerprint=fingerprint, images=self._wanted(shard)
            )
            if entry is None or not has_file(self._files, entry):
                return None
        if self._lease is None:  # looked at once, as nothing is written
            self._seen[level, shard] = entry
        return entry
