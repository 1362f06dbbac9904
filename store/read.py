"""Windows of features for training: a pure slice, or one line that says why not."""

# C channels, h w tokens

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from store.decode import DamageError, read_window
from store.errors import (
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreMissingError,
)
from store.files import Url, files_at, join, one_line_for_reads, unreadable
from store.grid import LevelGrid, place_of, shard_count, shard_file
from store.header import Header, read_header
from store.index import Index
from store.ledger import Ledger, wanted_images
from store.spec import ImageEntry, Size

_Held = tuple[Sequence[ImageEntry | None], Mapping[str, str]]
"""What the slots of a shard hold, and the images that were skipped -> why."""


class FeatureReader:
    """Read windows of one store.

    Opens on first use and keeps no file open, so that it pickles as a path and works in
    DataLoader workers, forked or spawned. It shows the store as it was when first used.

    Args:
        path: Url of the store.
    """

    def __init__(self, path: Url) -> None:
        self._path = path
        self._opened: _Opened | None = None

    def __reduce__(self) -> tuple[type["FeatureReader"], tuple[Url]]:
        return FeatureReader, (self._path,)

    @property
    def header(self) -> Header:
        """Specification, levels and slots of the store.

        Raises:
            StoreError: As `read_header`.
        """
        return self._open().header

    def size_tok(self, image_id: str, level: str) -> Size:
        """Return the valid (height, width) of an image in tokens.

        Raises:
            StoreIncompleteError: The store has no such image or level.
        """
        opened = self._open()
        return opened.grid(level).image_size_tok(opened.image(image_id).working_size_px)

    def window(self, image_id: str, level: str, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """Read the tokens (C, h, w) from (y, x) on, in tokens of the level.

        float32 where the codec is one of 8 bits, otherwise float16.

        Raises:
            StoreIncompleteError: The store has no such image, level or (yet) shard.
            StoreUnreadableError: The shard cannot be looked at.
            StoreError: The window leaves the valid region, or the shard is damaged.
        """
        opened = self._open()
        grid = opened.grid(level)
        height, width = grid.image_size_tok(opened.image(image_id).working_size_px)
        if not (0 <= y < y + h <= height and 0 <= x < x + w <= width):
            raise StoreError(
                f"window y={y}:{y + h}, x={x}:{x + w} leaves the {height}x{width} {level} tokens "
                f"of {image_id}: crops must lie in the working image"
            )
        shard, row = opened.vouched_place(image_id, level)
        name, files = shard_file(level, shard), opened.header.files
        try:
            with files.open(name) as file:
                stored = read_window(file, grid, row, y=y, x=x, h=h, w=w)
        except FileNotFoundError as error:
            raise StoreIncompleteError(
                f"shard {shard} of {level} with {image_id} is missing in {self._path}: "
                "run `ssr embed`"
            ) from error
        except DamageError as error:
            raise StoreError(
                f"{image_id} lies in a damaged shard, {files.url}/{name} ({error}): "
                f"`ssr verify {files.url} --repair` embeds it again"
            ) from error
        except (OSError, MemoryError) as error:
            raise unreadable(f"{files.url}/{name}", error) from error
        return grid.codec.decode(stored, opened.header.scales.get(level))

    def skipped(self) -> dict[str, str]:
        """Return the images that have no features at some level, as they could not be read -> why.

        Reads the whole ledger.
        """
        opened = self._open()
        return {
            image_id: why
            for level in opened.header.levels
            for shard in range(opened.shards)
            for image_id, why in opened.held(level, shard)[1].items()
        }

    def check(self, *, levels: Iterable[str], images: Mapping[str, str], fingerprint: str) -> None:
        """Refuse the store unless it holds these images at these levels, all of them done.

        Looks at the ledger, existence and sizes; contents are verified as they are read.

        Args:
            levels: Levels that will be read.
            images: image id -> content, as in the manifest.
            fingerprint: Fingerprint of the store, as in the index.

        Raises:
            StoreMismatchError: Features of another teacher, or of other versions of images.
            StoreIncompleteError: Levels, images or shards are missing.
        """
        opened = self._open()
        found = opened.header.spec.fingerprint
        if found != fingerprint:
            raise StoreMismatchError(
                f"the store {self._path} has fingerprint {found[:8]}, expected {fingerprint[:8]}: "
                "run `ssr embed`"
            )
        other = [i for i, content in images.items() if opened.image(i).content != content]
        if other:
            raise StoreMismatchError(
                f"{len(other)} images changed since they were embedded in {self._path}, "
                f"first {other[0]}: run `ssr embed`"
            )
        for level in levels:
            opened.grid(level)
            for image_id in images:
                opened.vouched_place(image_id, level)

    def _open(self) -> "_Opened":
        if self._opened is None:
            self._opened = _Opened(read_header(files_at(self._path)))
        return self._opened


def open_features(
    url: Url, index: Index, domain: str, *, levels: Iterable[str], images: Mapping[str, str]
) -> FeatureReader:
    """Open the store that the index names for a domain, and `check` it.

    Args:
        url: Folder of all stores.
        index: What `ssr embed` said it made.
        domain: `source` or `target`.
        levels: Levels that will be read.
        images: image id -> content, as in the manifest.

    Raises:
        StoreMissingError: The index has no such domain, or the store is not there.
        StoreMismatchError: Features of another teacher, or of other versions of images.
        StoreIncompleteError: Levels, images or shards are missing.
    """
    entry = index.stores.get(domain)
    if entry is None:
        raise StoreMissingError(
            f"the index has no features of {domain}, only of {sorted(index.stores)}: add it to "
            "embed.domains and run `ssr embed`"
        )
    levels = tuple(levels)
    reader = FeatureReader(join(url, entry.path))
    reader.check(levels=levels, images=images, fingerprint=entry.fingerprint)
    # The store may have kept a level that was embedded before; the index does not vouch for it.
    absent = [level for level in levels if level not in entry.levels]
    if absent:
        raise StoreIncompleteError(
            f"the index has no {absent[0]} of {domain}, only {', '.join(entry.levels)}: add it to "
            "embed.levels and run `ssr embed`"
        )
    return reader


class _Opened:
    """What a reader keeps in memory: plain data, no handles."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._grids = {level: LevelGrid.of(header.spec, level) for level in header.levels}
        self._slot_of = {s.image.image_id: n for n, s in enumerate(header.slots) if s.live}
        self._ledger = Ledger(header.files)
        self._vouched: dict[tuple[str, int], _Held] = {}

    def grid(self, level: str) -> LevelGrid:
        try:
            return self._grids[level]
        except KeyError:
            raise StoreIncompleteError(
                f"the store {self.header.files.url} has no {level}, only {', '.join(self._grids)}: "
                "add it to embed.levels and run `ssr embed`"
            ) from None

    def image(self, image_id: str) -> ImageEntry:
        return self.header.slots[self._slot(image_id)].image

    def vouched_place(self, image_id: str, level: str) -> tuple[int, int]:
        """Return shard and row of an image once the ledger vouches for its present content."""
        shard, row = place_of(self._slot(image_id), self.header.spec.shard_images)
        held, skipped = self.held(level, shard)
        if image_id in skipped:
            raise StoreIncompleteError(
                f"{self.header.files.url} has no features of {image_id}, which was skipped "
                f"({skipped[image_id]}): mend the image and run `ssr embed`"
            )
        if row >= len(held) or held[row] != self.image(image_id):
            raise StoreIncompleteError(
                f"shard {shard} of {level} with {image_id} is missing or out of date in "
                f"{self.header.files.url}: run `ssr embed`"
            )
        return shard, row

    def _slot(self, image_id: str) -> int:
        try:
            return self._slot_of[image_id]
        except KeyError:
            raise StoreIncompleteError(
                f"the store {self.header.files.url} has no image {image_id!r}: run `ssr embed`"
            ) from None

    @property
    def shards(self) -> int:
        return shard_count(len(self.header.slots), self.header.spec.shard_images)

    def held(self, level: str, shard: int) -> _Held:
        key = (level, shard)
        if key not in self._vouched:
            fingerprint = self.header.level_fingerprint(level)
            with one_line_for_reads(self.header.files.url):
                entry = self._ledger.vouched(level, shard, fingerprint=fingerprint, images=())
            wanted = wanted_images(self.header.slots, shard, self.header.spec.shard_images)
            self._vouched[key] = (
                ((), {}) if entry is None else (entry.images, entry.skipped_of(wanted))
            )
        return self._vouched[key]
