"""Restyled images: what `ssr restyle` leaves, as training reads it."""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.fields import Split
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.pixels import read_raw
from store.errors import DataError
from store.fingerprint import sha256_of_file


@dataclass(frozen=True)
class Restyled:
    """Images of the source in other styles.

    Attributes:
        manifest: One record for each, of domain `restyled`. Its image lies below `root` and has
            the size of the resized image; its label is that of the image that it shows, in the
            source's folder.
        root: Folder of the images.
        noted: What they were made from.
    """

    manifest: Manifest
    root: Path

    @classmethod
    def read(cls, path: Path, *, of: Path) -> "Restyled":
        """Read the file that `ssr restyle` wrote, of this manifest.

        Raises:
            DataError: There is none, it cannot be read, or it was made of another manifest.
        """
        try:
            listed = Manifest.read(path)
        except DataError as error:
            raise DataError(str(error).replace("ssr prepare", "ssr restyle")) from error
        records = tuple(replace(record, domain="restyled") for record in listed.records)
        found = cls(replace(listed, records=records), path.with_suffix(""))
        if found.noted.get("manifest") != sha256_of_file(of):
            why = "was made of other images" if found.noted else "holds no restyled images"
            raise DataError(f"{path}: {why}: run `ssr restyle`")
        return found

    @property
    def noted(self) -> dict[str, Any]:
        """Manifest, settings and, by id, content, style and draw; empty where nothing was made."""
        return dict(self.manifest.sources.get("source", {}))

    def image(self, record: ImageRecord) -> NDArray[np.uint8]:
        """Read a restyled image at the resized size; see `read_raw`."""
        return read_raw(record, self.root)

    def beside(self, manifest: Manifest) -> Manifest:
        """Add these images to those of a manifest, for what embeds them or reads features."""
        return replace(manifest, records=(*manifest.records, *self.manifest.records))

    def versions(self, split: Split) -> dict[str, tuple[ImageRecord, ...]]:
        """Map the ids of a split's images to these images restyled, in the order of draws.

        Raises:
            DataError: None of the split was restyled.
        """
        found = defaultdict(list)
        for record in self.manifest.select(split=split):
            found[self.noted["images"][record.image_id]["content"]].append(record)
        if not found:
            raise DataError(
                f"no image of source/{split} is restyled: add {split} to restyle.splits, see that "
                "prepare.source has such images, and run `ssr restyle`"
            )
        return {content: tuple(records) for content, records in found.items()}
