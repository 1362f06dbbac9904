"""Metadata of a store, read and verified: specification, levels, slots, scales, digests."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from store.codec import (
    BASIS_ARRAYS,
    Bases,
    Codec,
    Scales,
    parse_basis,
    parse_scale,
    scale_file,
)
from store.errors import (
    StoreError,
    StoreFormatError,
    StoreMismatchError,
    StoreMissingError,
    StoreUnreadableError,
)
from store.files import Files, one_line_for_reads
from store.fingerprint import canonical_json, fingerprint_of, sha256
from store.ledger import (
    LEDGER,
    SLOTS_FILE,
    ShardEntry,
    Slot,
    read_slots,
    recorded,
    wanted_images,
)
from store.spec import (
    LEVEL_NAME,
    TAKEN,
    Format,
    ImageEntry,
    Level,
    Size,
    StoreSpec,
    check_images,
    levels_of_format_1,
    shard_count,
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

_ABOUT = (
    "Features of a frozen teacher, embedded once; arrays (image, channel, y, x), NaN where there "
    "is no feature; the contract is store/README.md of ssr-offline"
)


class RootAttributes(BaseModel):
    """Attributes of the root group: the specification, written out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    format: Format
    fingerprint: str
    domain: str
    channels: int | None = None
    grid_px: Size
    shard_images: int
    codec: str
    provenance: dict[str, JsonValue]

    @classmethod
    def of(cls, spec: StoreSpec) -> "RootAttributes":
        """Write out a specification."""
        values = {name: getattr(spec, name) for name in cls.model_fields if name != "about"}
        return cls.model_validate_json(canonical_json({"about": _ABOUT, **values}))

    def as_json(self) -> dict[str, JsonValue]:
        """Return the attributes; each level of format 2 has its channels among its own."""
        return self.model_dump(mode="json", exclude=None if self.format == 1 else {"channels"})

    def spec(self) -> StoreSpec:
        """Read the specification back, in format 2 without its levels."""
        if (self.channels is None) != (self.format > 1):
            raise StoreError("only format 1 has one number of channels")
        return StoreSpec(
            domain=self.domain,
            levels={} if self.channels is None else levels_of_format_1(self.channels),
            format=self.format,
            grid_px=self.grid_px,
            shard_images=self.shard_images,
            codec=self.codec,
            provenance=self.provenance,
        )


class _File(BaseModel):
    attributes: dict[str, JsonValue]


class _Digests(BaseModel):
    format: Format
    files: dict[str, str]


class _LevelAttributes(BaseModel):
    stride_px: int
    channels: int


@dataclass(frozen=True)
class Header:
    """The sound metadata of one store.

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

    def level_fingerprint(self, level: str) -> str:
        """Return the fingerprint of a level, with its scale and basis where it has them."""
        return self.spec.level_fingerprint(level, self.scales, self.bases)

    @property
    def shards(self) -> range:
        """Numbers of the shards that hold the slots."""
        return range(shard_count(len(self.slots), self.spec.shard_images))

    def wanted(self, shard: int) -> tuple[ImageEntry | None, ...]:
        """Return the image of each slot of a shard; None for a tombstone."""
        return wanted_images(self.slots, shard, self.spec.shard_images)

    def recorded(self, level: str) -> Iterator[tuple[tuple[ImageEntry | None, ...], ShardEntry]]:
        """Yield the wanted images and the entry of each shard of a level that has one."""
        fingerprint = self.level_fingerprint(level)
        for shard in self.shards:
            images = self.wanted(shard)
            entry = recorded(self.files, level, shard, fingerprint=fingerprint, images=images)
            if entry is not None:
                yield images, entry


def read_spec(files: Files) -> StoreSpec:
    """Read the specification of a store, in format 2 without its levels (`read_levels`).

    Raises:
        StoreMissingError: There is no store.
        StoreFormatError: The store has another format.
        StoreMismatchError: Its attributes were changed.
        StoreError: The file of the attributes is damaged.
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
        attributes = RootAttributes.model_validate(found)
        spec = attributes.spec()
    except StoreFormatError:
        raise
    except (ValidationError, StoreError) as error:
        raise damaged(files, ROOT_FILE) from error
    if spec.fingerprint != attributes.fingerprint:
        raise StoreMismatchError(
            f"the attributes of the store {files.url} say fingerprint {attributes.fingerprint[:8]} "
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
    for name, digest in digests.items():
        if sha256(_read_file(files, name)) != digest:
            raise damaged(files, name)
    there = read_levels(files, spec, digests)
    spec = spec if spec.format == 1 else replace(spec, levels=there)
    levels = tuple(there)
    with one_line_for_reads(files.url):
        slots = read_slots(files)
        scales, bases = read_scales(files, spec, levels), read_bases(files, spec, levels)
    try:
        check_images(spec, [slot.image for slot in slots])
    except StoreError as error:
        raise damaged(files, SLOTS_FILE) from error
    for level in levels if Codec(spec.codec).scaled else ():
        if level not in scales or scale_file(level) not in digests:
            raise damaged(files, scale_file(level))
    for level in map(upright, levels) if spec.projected else ():
        if level not in bases or not {*basis_files(level)} <= digests.keys():
            raise damaged(files, basis_files(level)[0])
    return Header(files, spec, levels, slots, scales, bases)


def digests_json(digests: Mapping[str, str], store_format: Format) -> bytes:
    """Encode `ledger/metadata.json`: name -> SHA-256 of every other file that is not a shard's."""
    content = {"format": store_format, "files": digests}
    return canonical_json({**content, "check": fingerprint_of(content)})


def read_digests(files: Files) -> dict[str, str] | None:
    """Read `ledger/metadata.json`; StoreMissingError where there is no store.

    None unless it is, to the bit, what was written, and names files that a store has.
    """
    try:
        data = files.read(METADATA_FILE)
        found = _Digests.model_validate_json(data)
    except ValidationError:
        return None
    except FileNotFoundError as error:
        if files.names(LEDGER) or files.names(""):
            return None
        raise _missing(files) from error
    named = {ROOT_FILE, SLOTS_FILE} <= found.files.keys()
    named = named and all(map(_METADATA.fullmatch, found.files))
    return found.files if named and digests_json(found.files, found.format) == data else None


def read_levels(files: Files, spec: StoreSpec, digests: Iterable[str]) -> dict[str, Level]:
    """Return the levels that a store has an array for, finest first.

    StoreError where the file of a level is missing or damaged, or format 1 has no such level.
    """
    found: dict[str, Level] = {}
    matches = map(_METADATA.fullmatch, digests)
    for level in [match["level"] for match in matches if match and match["level"]]:
        name = f"{level}/{ROOT_FILE}"
        try:
            if spec.format == 1:
                found[level] = spec.level(level)
            else:
                content = _File.model_validate_json(_read_file(files, name))
                about = _LevelAttributes.model_validate(content.attributes)
                found[level] = Level(about.stride_px, about.channels)
                replace(spec, levels=found)  # checks it
        except StoreUnreadableError:
            raise
        except (ValidationError, StoreError) as error:
            raise damaged(files, name) from error
    return dict(sorted(found.items(), key=lambda item: (item[1].stride_px, item[0])))


def read_scales(files: Files, spec: StoreSpec, levels: Iterable[str]) -> Scales:
    """Read the scale of each level; levels whose scale is absent or damaged are left out."""
    scales = {}
    for level in levels if Codec(spec.codec).scaled else ():
        try:
            scale = parse_scale(files.read(scale_file(level)), spec.level(level).channels)
        except FileNotFoundError:
            continue
        if scale is not None:
            scales[level] = scale
    return scales


def basis_files(level: str) -> list[str]:
    """Return the POSIX paths inside a store of the chunks of a level's basis."""
    return [f"{name}_{level}/c.0{'.0' * (name == 'basis')}" for name in BASIS_ARRAYS]


def read_bases(files: Files, spec: StoreSpec, levels: Iterable[str]) -> Bases:
    """Read the basis of each level; levels whose basis is absent or damaged are left out."""
    bases = {}
    for level in dict.fromkeys(map(upright, levels)) if spec.projected else ():
        try:
            basis = parse_basis(*map(files.read, basis_files(level)))
        except FileNotFoundError:
            continue
        if basis is not None and len(basis.components) == spec.level(level).channels:
            bases[level] = basis
    return bases


def _read_file(files: Files, name: str) -> bytes:
    with one_line_for_reads(f"{files.url}/{name}"):
        try:
            return files.read(name)
        except FileNotFoundError as error:
            raise (damaged(files, name) if files.names(LEDGER) else _missing(files)) from error


def _missing(files: Files) -> StoreMissingError:
    return StoreMissingError(f"no feature store at {files.url}: run `ssr embed`")


def damaged(files: Files, name: str) -> StoreError:
    """Return the error of a metadata file that is not as its writer left it."""
    return StoreError(
        f"{name} of the store {files.url} is missing, damaged or from an interrupted write: run "
        "`ssr embed`, which repairs the metadata and keeps the features"
    )
