"""What a store knows to be done: one small JSON per shard, and the slots of the images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from store import atomic
from store.fingerprint import canonical_json
from store.grid import shard_file
from store.spec import FORMAT, ImageEntry
from store.statistics import ChannelStatistics

LEDGER = "ledger"
SLOTS_FILE = f"{LEDGER}/images.json"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place along the image axis; it belongs to one image id for ever.

    Attributes:
        image: The image as it was last wanted.
        live: False for a tombstone: the image is no longer part of the data set.
    """

    image: ImageEntry
    live: bool


class SlotTable(BaseModel):
    """Content of `ledger/images.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    slots: tuple[Slot, ...]


class ShardEntry(BaseModel):
    """What `ledger/<level>/<shard>.json` vouches for; beside it the file holds statistics.

    They are read apart (`Ledger.statistics`): they are most of the file, and a look at thousands
    of shards takes a quarter of the time without them.

    Attributes:
        format: Version of the store format.
        level: Level of the shard.
        shard: Number of the shard.
        fingerprint: Fingerprint of the level.
        images: What each slot of the shard holds; None holds nothing.
        bytes: Size of the shard file.
        digest: SHA-256 of the shard file.
        saturated: Numbers that the scale was too small for; absent where there is no scale.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1]
    level: str
    shard: int
    fingerprint: str
    images: tuple[ImageEntry | None, ...]
    bytes: int
    digest: str
    saturated: int | None = None

    def holds(self, images: Sequence[ImageEntry | None]) -> bool:
        """Tell whether every wanted image is in its slot, with its content and size.

        What a tombstoned slot (None) holds does not matter, so removing an image costs nothing.
        """
        return len(images) <= len(self.images) and all(
            wanted is None or wanted == held
            for wanted, held in zip(images, self.images, strict=False)
        )


class _Statistics(BaseModel):
    statistics: ChannelStatistics


class Ledger:
    """The ledger folder of the store at a path."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def read(self, level: str, shard: int) -> ShardEntry | None:
        """Read one entry; None where it is absent, damaged or about something else."""
        entry = _read(self._path(level, shard), ShardEntry)
        if entry is None or (entry.level, entry.shard) != (level, shard):
            return None
        return entry

    def vouched(
        self, level: str, shard: int, *, fingerprint: str, images: Sequence[ImageEntry | None]
    ) -> ShardEntry | None:
        """Read one entry if the shard is done: the entry matches and the file has its size.

        Contents are not hashed here: that takes hours, a look at sizes takes seconds.
        """
        entry = self.read(level, shard)
        if entry is None or entry.fingerprint != fingerprint or not entry.holds(images):
            return None
        try:
            size_bytes = (self._store / shard_file(level, shard)).stat().st_size
        except FileNotFoundError:
            return None
        return entry if size_bytes == entry.bytes else None

    def statistics(self, level: str, shard: int) -> ChannelStatistics | None:
        """Read the per-channel statistics of all tokens in a shard; None as for `read`."""
        found = _read(self._path(level, shard), _Statistics)
        return None if found is None else found.statistics

    def write(self, entry: ShardEntry, statistics: ChannelStatistics) -> None:
        """Vouch for a shard, which must be on the disk by now."""
        content = entry.model_dump(mode="json", exclude_none=True)
        content["statistics"] = statistics.model_dump()
        atomic.write_bytes(self._path(entry.level, entry.shard), canonical_json(content))

    def withdraw(self, level: str, shard: int) -> None:
        """Vouch no longer for a shard; to be called before its file is touched."""
        self._path(level, shard).unlink(missing_ok=True)

    def read_slots(self) -> tuple[Slot, ...]:
        """Read the slots, none where the file is absent or damaged.

        Nothing wrong comes of starting anew: entries of shards name their images, and a shard
        whose images lie in other slots now is not done.
        """
        table = _read(self._store / SLOTS_FILE, SlotTable)
        return () if table is None else table.slots

    def _path(self, level: str, shard: int) -> Path:
        return self._store / LEDGER / level / f"{shard:06d}.json"


def slots_json(slots: Sequence[Slot]) -> bytes:
    """Encode the content of `ledger/images.json`."""
    return canonical_json(SlotTable(format=FORMAT, slots=tuple(slots)).model_dump(mode="json"))


def assign_slots(slots: Sequence[Slot], images: Iterable[ImageEntry]) -> tuple[Slot, ...]:
    """Give every image its slot: its old one, or a new one at the end in the order given.

    Args:
        slots: The slots so far; none ever moves or vanishes.
        images: The images that are wanted now, with unique ids.
    """
    wanted = {image.image_id: image for image in images}
    kept = []
    for slot in slots:
        image = wanted.pop(slot.image.image_id, None)
        kept.append(Slot(slot.image, live=False) if image is None else Slot(image, live=True))
    return (*kept, *(Slot(image, live=True) for image in wanted.values()))


_Model = TypeVar("_Model", bound=BaseModel)


def _read(path: Path, model: type[_Model]) -> _Model | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
