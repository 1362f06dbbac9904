"""Writer of a store: its slots, metadata and scales, and the shards that are still to be made."""

# C channels, h w tokens

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Self

from store.codec import Bases, Scales
from store.errors import (
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreUnreadableError,
)
from store.files import Url, absolute, files_at, join, one_line_for_os_errors, one_line_for_reads
from store.fingerprint import fingerprint_of, sha256
from store.header import (
    ROOT_FILE,
    Header,
    read_bases,
    read_digests,
    read_levels,
    read_scales,
    read_spec,
    root_attributes,
)
from store.index import LevelEntry, StoreEntry
from store.layout import skeleton
from store.lease import WHOLE, Change, Part, commit, owns, writer_lease
from store.ledger import (
    LEDGER,
    SLOTS_FILE,
    ShardEntry,
    Slot,
    assign_slots,
    parse_slots,
    slots_json,
)
from store.shard_writer import Features, ShardTask, ShardWriter
from store.spec import ImageEntry, StoreSpec, check_images, shard_numbers, upright


class StoreWriter:
    """Bring the store of a specification up to date with a set of images.

    A context manager. Where the store holds all that it should, entering writes nothing and keeps
    nobody from writing. Otherwise it takes the writer's lease, sweeps up after a killed writer,
    gives the images their slots and writes the metadata; features that are there already stay.

    Several writers share the work as parts: each writes its own shards only, and finds the metadata
    as a writer of the whole store left it, which `fix_scales` and `finalise` belong to as well.

    Args:
        url: Of all stores; this one is `<url>/<domain>/<fingerprint8>.zarr`.
        images: All that the store shall hold; those that it holds beside them become tombstones.
        levels: Those to write; others that the store has are left as they are.

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
        self.path = join(url, spec.relative_path)
        files_at(url)  # refuses what is no place
        self._files = files_at(self.path)
        self.part = part
        self.levels = tuple(
            sorted(set(levels), key=lambda name: (spec.level(name).stride_px, name))
        )
        self._images = tuple(images)
        self.header = Header(self._files, spec, (), (), {}, {})
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
        """Read the header that the store has, as far as it is sound, and give images slots."""
        self._check_identity()
        read, digests = self._files.read, read_digests(self._files) or {}
        kept = read_levels(read, self.header.spec, digests)
        spec = replace(self.header.spec, levels=kept | dict(self.header.spec.levels))
        bases = read_bases(read, spec, spec.levels)
        # where the basis was lost, the scale is one of numbers that may not come again
        known = [n for n in spec.levels if upright(n) in bases or not spec.projected]
        header = Header(self._files, spec, (), (), read_scales(read, spec, known), bases)
        slots = parse_slots(read(SLOTS_FILE) or b"")
        if digests.get(SLOTS_FILE) != sha256(slots_json(slots, spec.format)):
            slots = _slots_by_entries(header, slots)
        try:
            check_images(spec, [slot.image for slot in slots])
        except StoreError:
            slots = ()
        self.header = replace(header, slots=assign_slots(slots, self._images))
        self._seen = cache(self.header.done)

    def _take_lease(self) -> None:
        with one_line_for_os_errors(self.path), ExitStack() as stack:
            self._lease = stack.enter_context(writer_lease(self._files, self.part))
            self._look()  # again: others may have written until now
            if self.part == WHOLE:
                self._files.sweep()
                self._write_skeleton()
            elif self.unready or self._stale():
                raise StoreIncompleteError(
                    f"the store {self.path} is not ready for parts: run `ssr embed --init` first, "
                    "with the same params and manifest"
                )
            self._stack = stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def unscaled(self) -> tuple[str, ...]:
        """Levels that cannot be written before `fix_scales`; none unless the codec has scales."""
        return self.header.unscaled(self.levels)

    @property
    def unprojected(self) -> tuple[str, ...]:
        """Levels that have no basis yet; none unless the store holds principal components."""
        return self.header.unprojected(self.levels)

    @property
    def unready(self) -> tuple[str, ...]:
        """Levels that lack scale or basis."""
        return tuple(dict.fromkeys((*self.unprojected, *self.unscaled)))

    def fix_scales(self, scales: Scales, bases: Bases | None = None) -> None:
        """Record scales (C,) and bases of the levels without; they hold for ever after."""
        assert scales.keys() == set(self.unscaled), (scales.keys(), self.unscaled)
        if scales or bases:
            self.header = replace(
                self.header,
                scales={**self.header.scales, **scales},
                bases={**self.header.bases, **(bases or {})},
            )
            with one_line_for_os_errors(self.path):
                self._write_skeleton()

    @property
    def shards(self) -> ShardWriter:
        """What writes shards under this writer's lease, here or in a process that works for it."""
        assert self._lease is not None, "a StoreWriter is a context manager"
        return ShardWriter(
            absolute(self.path),
            self.header.spec,
            self.header.scales,
            self.header.fingerprints,
            self.part,
            self._lease,
        )

    def pending(self) -> list[ShardTask]:
        """List the shards of the part that are not done, by looking at ledger and sizes."""
        return list(self._pending())

    def write_shard(self, task: ShardTask, features: Features) -> None:
        """Write one shard of a task of the last `pending`; see `ShardWriter.write`."""
        self.shards.write(task, features)

    def finalise(self) -> StoreEntry:
        """Return what the index says; StoreIncompleteError where shards are missing."""
        if self._lease is not None:
            self._files.sweep()  # a process that wrote for this one may have been killed
        levels: dict[str, LevelEntry] = {}
        for level in self.levels:
            digests: list[str | None] = []
            for shard in self.header.shards:
                wanted = any(self.header.wanted(shard))
                entry = self._done(level, shard) if wanted else None
                if entry is None and wanted:
                    raise StoreIncompleteError(
                        f"shard {shard} of {level} is missing in the store {self.path}: "
                        "run `ssr embed`"
                    )
                digests.append(entry.digest if entry else None)
            fingerprint = self.header.fingerprints[level]
            levels[level] = LevelEntry(fingerprint=fingerprint, shards=tuple(digests))
        stored = self.header.live
        return StoreEntry(
            path=self.header.spec.relative_path,
            fingerprint=self.header.spec.fingerprint,
            provenance=root_attributes(self.header.spec)["provenance"],
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
        spec = self.header.spec
        if (found.fingerprint, found.domain) != (spec.fingerprint, spec.domain):
            raise StoreMismatchError(
                f"{self.path} holds features of {found.domain} {found.fingerprint}, not of "
                f"{spec.domain} {spec.fingerprint}: move it away and run `ssr embed`"
            )

    def _write_skeleton(self) -> None:
        assert self._lease is not None
        commit(self._files, self.part, self._lease, self._stale())

    def _stale(self) -> list[Change]:
        """Return the metadata files that are missing or of something else, as they should be."""
        ready = tuple(
            level
            for level in self.header.spec.levels
            if not (self.header.unscaled([level]) or self.header.unprojected([level]))
            and (level in self.levels or self._files.size(f"{level}/{ROOT_FILE}") is not None)
        )
        files = skeleton(replace(self.header, levels=ready))
        return [(name, data) for name, data in files.items() if self._files.read(name) != data]

    def _pending(self) -> Iterator[ShardTask]:
        for shard in self.header.shards:
            images = self.header.wanted(shard)
            if owns(self.part, shard) and any(images):
                levels = tuple(level for level in self.levels if not self._done(level, shard))
                if levels:
                    yield ShardTask(shard, images, levels)

    def _done(self, level: str, shard: int) -> ShardEntry | None:
        look = self._seen if self._lease is None else self.header.done  # nothing is written before
        return look(level, shard, self.header.wanted(shard))


def _slots_by_entries(header: Header, listed: Sequence[Slot]) -> tuple[Slot, ...]:
    """Return the slots that the entries of the shards know of, and else those of a damaged list.

    None where that leaves a gap.
    """
    held, shard_images = dict(enumerate(listed)), header.spec.shard_images
    for level in sorted(header.grids, key=lambda name: -header.grids[name].stride_px):
        for shard in shard_numbers(header.files.names(f"{LEDGER}/{level}")):
            entry = header.recorded(level, shard)
            for row, image in enumerate(entry.images[:shard_images] if entry else ()):
                if image is not None:
                    held[shard * shard_images + row] = Slot(image, live=False)
    return tuple(held[n] for n in sorted(held)) if max(held, default=-1) < len(held) else ()
