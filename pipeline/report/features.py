"""What the report says of the feature stores: how complete, how large, and how features look."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.pictures import Palette, paint_level, read_photo, sample_tokens
from pipeline.report.inline import drawing, photo
from pipeline.report.section import Section, section
from stages.prepare.geometry import Size
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from store.errors import DataError, StoreIncompleteError, StoreMismatchError, StoreMissingError
from store.index import Index
from store.read import FeatureReader
from store.summary import StoreSummary, inspect
from store.url import Url, join

TEACHER: Final = {"architecture", "weights_sha256", "trained"}
"""What the index says of a teacher."""

PICTURES: Final = 2
"""Images of a domain that are shown beside their features."""


@dataclass(frozen=True)
class FeaturePicture:
    """One image: the photo and every level as data URIs."""

    image_id: str
    photo: str
    levels: tuple[str, ...]


@dataclass(frozen=True)
class StorePart:
    """One store.

    Attributes:
        summary: What is in it.
        teacher: Architecture.
        weights: SHA-256 of the teacher's weights, shortened.
        trained: False for an untrained teacher.
        pictures: Some images, or why there are none.
    """

    summary: StoreSummary
    teacher: str
    weights: str
    trained: bool
    pictures: Section[tuple[FeaturePicture, ...]]


class Features:
    """The stores that the index names, opened when they are looked at.

    Args:
        index: The current stores.
        store_url: Folder of all stores.
        manifest: The images.
        roots: Folder of each domain.
    """

    def __init__(
        self, index: Index, store_url: Url, manifest: Manifest, roots: Mapping[Domain, Path]
    ) -> None:
        self._index, self._url, self._roots = index, store_url, roots
        self._records = {record.image_id: record for record in manifest.records}
        self._readers: dict[str, FeatureReader] = {}
        self._contents: dict[str, Mapping[str, str]] = {}
        self._palettes: dict[tuple[str, str], Palette] = {}

    def parts(self) -> dict[str, Section[StorePart]]:
        """Summarise the store of each domain.

        Raises:
            StoreError: There is none.
        """
        if not self._index.stores:
            raise StoreMissingError("no store: embed.domains is [], so nothing was embedded")
        domains = dict.fromkeys([*self._index.stores, *(r.domain for r in self._records.values())])
        return {domain: section(partial(self._part, domain)) for domain in domains}

    def paint(self, record: ImageRecord, level: str | None = None) -> str:
        """Draw the features of an image at a level, by default the finest, as a data URI.

        Raises:
            StoreError: Its domain has no store, the image is not in it, or was another one then.
        """
        reader, stored = self._reader(record.domain), self._stored(record.domain)
        if record.image_id not in stored:
            raise StoreIncompleteError(
                f"not embedded: add {record.split} to embed.splits and run `ssr embed`"
            )
        if stored[record.image_id] != record.content:
            raise StoreMismatchError("has changed since it was embedded: run `ssr embed`")
        level = level or reader.header.levels[0]
        return drawing(
            paint_level(
                reader,
                record.image_id,
                level,
                self._palette(record.domain, level),
                record.resized_size_px,
            )
        )

    def _part(self, domain: str) -> StorePart:
        self._reader(domain)  # or there is none
        entry = self._index.stores[domain]
        summary = inspect(join(self._url, entry.path))
        teacher = entry.provenance.get("teacher")
        if not isinstance(teacher, dict) or not teacher.keys() >= TEACHER:
            raise StoreMismatchError(
                f"the index does not say of which teacher the {domain} store is: run `ssr embed`"
            )
        return StorePart(
            summary=summary,
            teacher=str(teacher["architecture"]),
            weights=str(teacher["weights_sha256"])[:12],
            trained=bool(teacher["trained"]),
            pictures=section(lambda: self._pictures(domain)),
        )

    def _pictures(self, domain: str) -> tuple[FeaturePicture, ...]:
        reader, stored = self._reader(domain), self._stored(domain)
        known = [
            record
            for image_id, record in self._records.items()
            if stored.get(image_id) == record.content
        ]
        if not known:
            raise StoreIncompleteError(
                f"{reader.header.files.url} has no image of the manifest as it is now: run "
                "`ssr embed`"
            )
        every = max(1, len(known) // PICTURES)
        return tuple(
            FeaturePicture(
                image_id=record.image_id,
                photo=photo(read_photo(record, self._root(record.domain))),
                levels=tuple(self.paint(record, level) for level in reader.header.levels),
            )
            for record in known[::every][:PICTURES]
        )

    def _root(self, domain: Domain) -> Path:
        if domain not in self._roots:
            raise DataError(f"section prepare names no {domain}, but the manifest has its images")
        return self._roots[domain]

    def _reader(self, domain: str) -> FeatureReader:
        if domain not in self._index.stores:
            raise StoreMissingError(
                f"there are no features of {domain}: add it to embed.domains and run `ssr embed`"
            )
        if domain not in self._readers:
            self._readers[domain] = FeatureReader(join(self._url, self._index.stores[domain].path))
        return self._readers[domain]

    def _stored(self, domain: str) -> Mapping[str, str]:
        """Image id -> content of the images in a store."""
        if domain not in self._contents:
            slots = self._reader(domain).header.slots
            self._contents[domain] = {s.image.image_id: s.image.content for s in slots if s.live}
        return self._contents[domain]

    def _palette(self, domain: str, level: str) -> Palette:
        """Colours of a level, the same for all images of a store."""
        key = (domain, level)
        if key not in self._palettes:
            reader = self._reader(domain)
            sizes: dict[str, Size] = {
                slot.image.image_id: slot.image.working_size_px
                for slot in reader.header.slots
                if slot.live
            }
            sizes |= {i: r.resized_size_px for i, r in self._records.items() if i in sizes}
            self._palettes[key] = Palette.of(sample_tokens(reader, level, sizes))
        return self._palettes[key]
