"""Index: the small file that downstream stages depend on, with every store shard by shard."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator

from store import atomic
from store.errors import StoreError, StoreMissingError
from store.files import is_name, unreadable
from store.spec import FLIPPED


class LevelEntry(BaseModel):
    """SHA-256 of each shard file of a level; None for one of which all images were removed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    shards: tuple[str | None, ...]


class StoreEntry(BaseModel):
    """One complete store, at a POSIX path below the store url.

    Attributes:
        images: Number of images that have features.
        images_digest: SHA-256 over their ids and contents.
        levels: Those that were asked for.
        skipped: Empty; an earlier version listed images here that it could not read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    fingerprint: str
    provenance: dict[str, JsonValue]
    images: int
    images_digest: str
    levels: dict[str, LevelEntry]
    skipped: dict[str, str] = {}

    def with_flips(self, levels: Iterable[str]) -> tuple[str, ...]:
        """Return levels, and those of mirrored images that there are of them."""
        levels = tuple(levels)
        flipped = (level + FLIPPED for level in levels)
        return (*levels, *(level for level in flipped if level in self.levels))


class Index(BaseModel):
    """The current store of each domain; equal features give equal bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    stores: dict[str, StoreEntry]

    @model_validator(mode="after")
    def _names_stores_where_they_can_be(self) -> Self:
        for domain, entry in self.stores.items():
            path = f"{domain}/{entry.fingerprint[:8]}.zarr"
            if entry.path != path or not is_name(path) or path.count("/") != 1:
                raise ValueError(f"{entry.path!r} is not a store of {domain!r}")
        return self

    def write(self, path: Path) -> bool:
        """Write the index unless it is on the disk already; tell whether it was written."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)
        try:
            return atomic.update_bytes(path, f"{text}\n".encode())
        except OSError as error:
            raise StoreError(f"cannot write the index {path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> "Index":
        """Read an index; StoreError where there is none, or the file is not one of this format."""
        try:
            return cls.model_validate_json(atomic.read_bytes(path))
        except FileNotFoundError as error:
            raise StoreMissingError(f"no index of features at {path}: run `ssr embed`") from error
        except (OSError, MemoryError) as error:
            raise unreadable(path, error) from error
        except ValidationError as error:
            raise StoreError(
                f"{path} is not an index of features: delete it and run `ssr embed`"
            ) from error


def labels_beside(index: Path) -> Path:
    """Return the index of the target's labels, which lies beside that of the features."""
    return index.with_name("labels.json")
