"""Ledger: a small JSON per shard that is done, its statistics, and the slots of the images."""

# C channels, N tokens

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from store.fingerprint import canonical_json, sha256
from store.spec import Format, ImageEntry

LEDGER = "ledger"
SLOTS_FILE = f"{LEDGER}/images.json"

_CACHED = 2**16
"""Numbers that stay in the processor's cache while they are counted."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place along the image axis; it belongs to one image id for ever.

    `live` is false for a tombstone, whose image is no longer part of the data set.
    """

    image: ImageEntry
    live: bool


class SlotTable(BaseModel):
    """Content of `ledger/images.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Format
    slots: tuple[Slot, ...]


_Numbers: TypeAlias = tuple[Annotated[float, Field(ge=-1e100, le=1e100)], ...]
"""Finite, as are the squares of their sums over all shards that there can be."""


class ChannelStatistics(BaseModel):
    """Count of valid tokens, the same for all channels; sums and extremes of each channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1, lt=2**63)]
    sum: _Numbers
    sumsq: _Numbers
    min: _Numbers
    max: _Numbers

    @model_validator(mode="after")
    def _has_one_of_each_per_channel(self) -> Self:
        if len({len(self.sum), len(self.sumsq), len(self.min), len(self.max)}) != 1:
            raise ValueError("sums and extremes are of different numbers of channels")
        return self

    @classmethod
    def of(cls, tokens: NDArray[np.floating[Any]]) -> "ChannelStatistics":
        """Count tokens (C, ...) of one image; float64, as float16 sums overflow."""
        rows = tokens.reshape(len(tokens), -1)  # (C, N)
        few = max(1, _CACHED // rows.shape[1])
        moments = []
        for first in range(0, len(rows), few):
            part = rows[first : first + few].astype(np.float64, order="C")
            sums = part.sum(axis=1), np.square(part).sum(axis=1)
            moments.append((*sums, part.min(axis=1), part.max(axis=1)))
        total, sumsq, least, most = np.concatenate(moments, axis=1).tolist()
        return cls(count=rows.shape[1], sum=total, sumsq=sumsq, min=least, max=most)

    @classmethod
    def merge(cls, parts: Iterable["ChannelStatistics | None"]) -> "ChannelStatistics | None":
        """Combine the statistics of disjoint sets of tokens, in order; None is the empty set."""
        every = [part for part in parts if part is not None]
        if not every:
            return None
        return cls.model_construct(  # checked already, and their sums may be larger
            count=sum(part.count for part in every),
            sum=tuple(np.sum([part.sum for part in every], axis=0).tolist()),
            sumsq=tuple(np.sum([part.sumsq for part in every], axis=0).tolist()),
            min=tuple(np.min([part.min for part in every], axis=0).tolist()),
            max=tuple(np.max([part.max for part in every], axis=0).tolist()),
        )

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean per channel (C,)."""
        return np.asarray(self.sum) / self.count

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation per channel (C,), of the population."""
        variance = np.asarray(self.sumsq) / self.count - self.mean**2
        return np.sqrt(np.maximum(variance, 0.0))  # rounding may leave -1e-17


class ShardEntry(BaseModel):
    """Content of `ledger/<level>/<shard>.json`, beside the statistics of the shard.

    They are read apart (`parse_statistics`): they are most of the file, and a look at thousands of
    shards takes a quarter of the time without them.

    Attributes:
        fingerprint: Of the level.
        images: What each slot of the shard holds; None holds nothing.
        saturated: Numbers that the scale was too small for; absent where there is no scale.
    """

    model_config = ConfigDict(frozen=True)

    format: Format
    level: str
    shard: int
    fingerprint: str
    images: tuple[ImageEntry | None, ...]
    bytes: NonNegativeInt
    digest: str
    saturated: Annotated[int, Field(ge=0, lt=2**63)] | None = None

    def holds(self, images: Sequence[ImageEntry | None]) -> bool:
        """Tell whether every wanted image is in its slot, with its content and size.

        What a tombstoned slot (None) holds does not matter, so removing an image costs nothing.
        """
        return len(images) <= len(self.images) and all(
            wanted is None or wanted == held
            for wanted, held in zip(images, self.images, strict=False)
        )


class _Statistics(BaseModel):
    statistics: ChannelStatistics | None = None


def parse_statistics(data: bytes, channels: int) -> ChannelStatistics | None:
    """Read the statistics in an entry; ValueError if they are damaged or of other channels."""
    found = _Statistics.model_validate_json(data).statistics
    wrong = found is not None and channels != len(found.sum)
    if wrong or not _is_sound(data):
        raise ValueError("not what was written")
    return found


def parse_slots(data: bytes) -> tuple[Slot, ...]:
    """Read the content of `ledger/images.json`; none where it is damaged.

    Nothing wrong comes of starting anew: entries of shards name their images, and a shard whose
    images lie in other slots now is not done.
    """
    try:
        return SlotTable.model_validate_json(data).slots
    except ValidationError:
        return ()


def entry_json(entry: ShardEntry, statistics: ChannelStatistics | None) -> bytes:
    """Encode the content of `ledger/<level>/<shard>.json`; no statistics if the shard is empty."""
    content = entry.model_dump(mode="json", exclude_none=True)
    if statistics is not None:
        content["statistics"] = statistics.model_dump()
    content["check"] = sha256(canonical_json(content))
    return canonical_json(content)


def entry_file(level: str, shard: int) -> str:
    """Return the POSIX path of a shard's entry inside a store."""
    return f"{LEDGER}/{level}/{shard:06d}.json"


def parse_entry(data: bytes, level: str, shard: int) -> ShardEntry | None:
    """Read an entry; None unless it is, to the bit, what was written about this shard."""
    try:
        entry = ShardEntry.model_validate_json(data)
    except ValidationError:
        return None
    same = (entry.level, entry.shard) == (level, shard)
    return entry if same and _is_sound(data) else None


def _is_sound(data: bytes) -> bool:
    """Tell whether an entry's check is that of its bytes without the check."""
    before, _, after = data.partition(b'"check":"')
    check, rest = after[:64], after[64:]
    return rest.startswith(b'",') and sha256(before + rest[2:]).encode() == check


def slots_json(slots: Sequence[Slot], store_format: Format) -> bytes:
    """Encode the content of `ledger/images.json`."""
    table = SlotTable(format=store_format, slots=tuple(slots))
    return canonical_json(table.model_dump(mode="json"))


def assign_slots(slots: Sequence[Slot], images: Iterable[ImageEntry]) -> tuple[Slot, ...]:
    """Give every image (of a unique id) its old slot, or a new one at the end, in this order."""
    wanted = {image.image_id: image for image in images}
    kept = []
    for slot in slots:
        image = wanted.pop(slot.image.image_id, None)
        kept.append(Slot(slot.image, live=False) if image is None else Slot(image, live=True))
    return (*kept, *(Slot(image, live=True) for image in wanted.values()))
