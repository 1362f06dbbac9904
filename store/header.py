"""Metadata of a store, read and verified: specification, levels, slots, scales, digests."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, TypeAdapter, ValidationError

from store.codec import BASIS_ARRAYS, Bases, Basis, Codec, Scales
from store.errors import StoreError, StoreFormatError, StoreMismatchError, StoreMissingError
from store.files import Files, one_line_for_reads
from store.fingerprint import CRC_BYTES, canonical_json, crc32c_is_sound, fingerprint_of, sha256
from store.ledger import (
    LEDGER,
    SLOTS_FILE,
    ChannelStatistics,
    ShardEntry,
    Slot,
    entry_file,
    parse_entry,
    parse_slots,
    parse_statistics,
)
from store.spec import (
    LEVEL_NAME,
    TAKEN,
    Format,
    ImageEntry,
    Level,
    LevelGrid,
    StoreSpec,
    check_images,
    levels_of_format_1,
    shard_file,
    upright,
)

METADATA_FILE = f"{LEDGER}/metadata.json"
ROOT_FILE = "zarr.json"
_VECTOR = f"{TAKEN}|(?:scale|{'|'.join(BASIS_ARRAYS)})_{LEVEL_NAME}"
_METADATA: Final = re.compile(
    rf"{ROOT_FILE}|{SLOTS_FILE}|{LEDGER}/{ROOT_FILE}|({_VECTOR})/({ROOT_FILE}|c\.0(\.0)?)"
    rf"|(?P<level>{LEVEL_NAME})/{ROOT_FILE}"
)
"""Names of all files that a store can have beside its shards, their ledger and `METADATA_FILE`."""

_MOST_SCALE: Final = 2.0**16
"""Above any scale of numbers that were float16 once."""

_ABOUT = (
    "Features of a frozen teacher, embedded once; arrays (image, channel, y, x), NaN where there "
    "is no feature; the contract is store/README.md of ssr-offline"
)

Read: TypeAlias = Callable[[str], bytes | None]
"""Content of a metadata file by its name, or None: `Files.read`, or `get` of what was read."""


class _File(BaseModel):
    attributes: dict[str, Any]


class _Digests(BaseModel):
    format: Format
    files: dict[str, str]


_SPEC: Final = TypeAdapter(StoreSpec)
_LEVEL: Final = TypeAdapter(Level)


@dataclass(frozen=True)
class Header:
    """The metadata of one store.

    Attributes:
        levels: Levels that it has an array for, finest first; `spec` says what they are.
        slots: Its images along the image axis.
        scales: The scale of each level, where the codec has one.
        bases: The basis of each level, where it holds principal components.
    """

    files: Files
    spec: StoreSpec
    levels: tuple[str, ...]
    slots: tuple[Slot, ...]
    scales: Scales
    bases: Bases

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprint of each level, with its scale and basis where it has them."""
        return {
            n: self.spec.level_fingerprint(n, self.scales, self.bases) for n in self.spec.levels
        }

    @cached_property
    def grids(self) -> dict[str, LevelGrid]:
        """Layout of each level."""
        return {level: LevelGrid.of(self.spec, level) for level in self.spec.levels}

    @property
    def live(self) -> list[ImageEntry]:
        """Images of the data set."""
        return [slot.image for slot in self.slots if slot.live]

    @property
    def shards(self) -> range:
        """Numbers of the shards that hold the slots."""
        return range(-(-len(self.slots) // self.spec.shard_images))

    def unscaled(self, levels: Iterable[str]) -> tuple[str, ...]:
        """Return levels that lack a scale."""
        scaled = Codec(self.spec.codec).scaled
        return tuple(level for level in levels if scaled and level not in self.scales)

    def unprojected(self, levels: Iterable[str]) -> tuple[str, ...]:
        """Return levels, of images as they are, that lack a basis."""
        uprights = dict.fromkeys(map(upright, levels)) if self.spec.projected else ()
        return tuple(level for level in uprights if level not in self.bases)

    def wanted(self, shard: int) -> tuple[ImageEntry | None, ...]:
        """Return the image of each slot of a shard; None for a tombstone."""
        first, count = shard * self.spec.shard_images, self.spec.shard_images
        return tuple(s.image if s.live else None for s in self.slots[first : first + count])

    def recorded(self, level: str, shard: int) -> ShardEntry | None:
        """Read the entry of a shard, without a look at the shard; None of other features."""
        entry = parse_entry(self.files.read(entry_file(level, shard)) or b"", level, shard)
        return entry if entry and entry.fingerprint == self.fingerprints[level] else None

    def done(
        self, level: str, shard: int, images: Sequence[ImageEntry | None] = ()
    ) -> ShardEntry | None:
        """Return the entry of a shard that is there, has its size, and holds some images.

        Contents are not hashed: that takes hours, a look at sizes takes seconds.
        """
        with one_line_for_reads(self.files.url):
            entry = self.recorded(level, shard)
            if entry is None or not entry.holds(images):
                return None
            there = self.files.size(shard_file(level, shard)) == entry.bytes
            return entry if there else None

    def statistics(self, level: str, shards: Iterable[int]) -> ChannelStatistics | None:
        """Read the statistics of all tokens in shards that are done; None where there is no token.

        StoreError where they are damaged, or cannot be looked at.
        """
        parts = []
        for shard in shards:
            name = f"{self.files.url}/{entry_file(level, shard)}"
            with one_line_for_reads(name):
                data = self.files.read(entry_file(level, shard)) or b""
            try:
                parts.append(parse_statistics(data, self.grids[level].channels))
            except ValueError as error:
                raise StoreError(
                    f"{name} is damaged: `ssr verify {self.files.url} --repair` embeds its shard "
                    "again"
                ) from error
        return ChannelStatistics.merge(parts)


def root_attributes(spec: StoreSpec) -> dict[str, Any]:
    """Return the attributes of the root group: a specification, written out, but for its levels."""
    names = ("format", "fingerprint", "domain", "channels", "grid_px", "shard_images", "codec")
    values = {name: getattr(spec, name) for name in (*names, "provenance")}
    if spec.format > 1:
        del values["channels"]  # each level has its own
    values = {"about": _ABOUT} | values
    return {name: json.loads(canonical_json(value)) for name, value in values.items()}


def read_spec(files: Files) -> StoreSpec:
    """Read the specification of a store, in format 2 without its levels (`read_levels`).

    Errors as of `read_header`; StoreFormatError where the store has another format.
    """
    data = _read_file(files, ROOT_FILE)
    try:
        found = _File.model_validate_json(data).attributes
        store_format, codec = found.get("format"), str(found.get("codec"))
        known = not isinstance(store_format, int) or store_format in get_args(Format)
        if not known or codec.startswith("bitround-"):
            raise StoreFormatError(
                f"the store {files.url} has format {store_format} and codec {codec}, which this "
                "version does not read: move it away and run `ssr embed`, or use the version that "
                "wrote it"
            )
        levels = levels_of_format_1(found["channels"]) if store_format == 1 else {}
        spec = _SPEC.validate_python({**found, "levels": levels})
        fingerprint = str(found["fingerprint"])
    except (ValidationError, KeyError) as error:
        raise damaged(files, ROOT_FILE) from error
    if spec.fingerprint != fingerprint:
        raise StoreMismatchError(
            f"the attributes of the store {files.url} say fingerprint {fingerprint[:8]} "
            f"but give {spec.fingerprint[:8]}: {ROOT_FILE} was changed; move the store away and "
            "run `ssr embed`"
        )
    return spec


def read_header(files: Files) -> Header:
    """Read and verify the metadata of a store; decode no feature.

    Raises:
        StoreMissingError: There is no store.
        StoreMismatchError: The store has another format, or its attributes were changed.
        StoreUnreadableError: A metadata file cannot be looked at.
        StoreError: A metadata file is not as its writer left it.
    """
    spec = read_spec(files)
    with one_line_for_reads(f"{files.url}/{METADATA_FILE}"):
        digests = read_digests(files)
    if digests is None:
        raise damaged(files, METADATA_FILE)
    held = {name: _read_file(files, name) for name in digests}
    lost = [name for name, digest in digests.items() if sha256(held[name]) != digest]
    levels = read_levels(held.get, spec, digests)
    lost += [f"{n}/{ROOT_FILE}" for n in level_names(digests) if n not in levels]
    spec = spec if spec.format == 1 else replace(spec, levels=levels)
    scales, bases = read_scales(held.get, spec, levels), read_bases(held.get, spec, levels)
    header = Header(files, spec, tuple(levels), parse_slots(held[SLOTS_FILE]), scales, bases)
    lost += map(_scale_file, header.unscaled(levels))
    lost += [basis_files(level)[0] for level in header.unprojected(levels)]
    try:
        check_images(spec, [slot.image for slot in header.slots])
    except StoreError:
        lost.append(SLOTS_FILE)
    if lost:
        raise damaged(files, lost[0])
    return header


def digests_json(digests: Mapping[str, str], store_format: Format) -> bytes:
    """Encode `ledger/metadata.json`: name -> SHA-256 of every other file that is not a shard's."""
    content = {"format": store_format, "files": digests}
    return canonical_json({**content, "check": fingerprint_of(content)})


def read_digests(files: Files) -> dict[str, str] | None:
    """Read `ledger/metadata.json`; None unless it is what was written, of files of a store."""
    data = files.read(METADATA_FILE)
    try:
        found = _Digests.model_validate_json(data or b"")
    except ValidationError:
        return None
    named = {ROOT_FILE, SLOTS_FILE} <= found.files.keys()
    named = named and all(map(_METADATA.fullmatch, found.files))
    return found.files if named and digests_json(found.files, found.format) == data else None


def level_names(names: Iterable[str]) -> list[str]:
    """Return the levels whose arrays are among the names of metadata files."""
    return [match["level"] for match in map(_METADATA.fullmatch, names) if match and match["level"]]


def read_levels(read: Read, spec: StoreSpec, names: Iterable[str]) -> dict[str, Level]:
    """Return the levels whose arrays are among some files and sound, finest first."""
    found: dict[str, Level] = {}
    for level in level_names(names):
        try:
            if spec.format == 1:
                found[level] = spec.level(level)
            else:
                file = _File.model_validate_json(read(f"{level}/{ROOT_FILE}") or b"")
                about = _LEVEL.validate_python([file.attributes.get(n) for n in Level._fields])
                replace(spec, levels={level: about})  # checks it
                found[level] = about
        except (ValidationError, StoreError):
            continue
    return dict(sorted(found.items(), key=lambda item: (item[1].stride_px, item[0])))


def read_scales(read: Read, spec: StoreSpec, levels: Iterable[str]) -> Scales:
    """Read the scale of each level; levels whose scale is absent or damaged are left out."""
    scales = {}
    for level in levels if Codec(spec.codec).scaled else ():
        scale = _read_floats(read, _scale_file(level), (spec.level(level).channels,))
        if scale is not None and np.all((scale > 0) & (scale < _MOST_SCALE)):
            scales[level] = scale
    return scales


def _scale_file(level: str) -> str:
    return f"scale_{level}/c.0"


def basis_files(level: str) -> list[str]:
    """Return the POSIX paths inside a store of the chunks of a level's basis."""
    return [f"{name}_{level}/c.0{'.0' * (name == 'basis')}" for name in BASIS_ARRAYS]


def read_bases(read: Read, spec: StoreSpec, levels: Iterable[str]) -> Bases:
    """Read the basis of each level; levels whose basis is absent or damaged are left out."""
    bases = {}
    for level in map(upright, levels) if spec.projected else ():
        stored = spec.level(level).channels
        shapes = zip(basis_files(level), ((-1,), (stored, -1), (stored,)), strict=True)
        arrays = [_read_floats(read, name, shape) for name, shape in shapes]
        sound = [array for array in arrays if array is not None]
        if len(sound) == len(arrays) and sound[1].shape[1] == len(sound[0]):
            bases[level] = Basis(*sound)
    return bases


def _read_floats(read: Read, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Read float32 numbers and their crc32c; None unless they are there, finite and so many."""
    data = np.frombuffer(read(name) or b"", np.uint8)
    try:
        numbers = data[:-CRC_BYTES].view("<f4").reshape(shape)
    except ValueError:
        return None
    return numbers if crc32c_is_sound(data) and np.isfinite(numbers).all() else None


def _read_file(files: Files, name: str) -> bytes:
    with one_line_for_reads(f"{files.url}/{name}"):
        data = files.read(name)
        if data is None and not files.names(LEDGER):
            raise StoreMissingError(f"no feature store at {files.url}: run `ssr embed`")
        if data is None:
            raise damaged(files, name)
        return data


def damaged(files: Files, name: str) -> StoreError:
    """Return the error of a metadata file that is not as its writer left it."""
    return StoreError(
        f"{name} of the store {files.url} is missing, damaged or from an interrupted write: run "
        "`ssr embed`, which repairs the metadata and keeps the features"
    )
