"""What a reader learns before it reads a feature: whose store it is, and that it is sound."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from store.codec import Codec, CodecName
from store.errors import StoreError, StoreMismatchError, StoreMissingError
from store.fingerprint import canonical_json, fingerprint_of, sha256
from store.ledger import LEDGER, Ledger, Slot
from store.scale import Scales, level_fingerprint, parse_scale, scale_file
from store.spec import FORMAT, LEVELS, Size, StoreSpec
from store.url import Files

METADATA_FILE = f"{LEDGER}/metadata.json"
ROOT_FILE = "zarr.json"
_ABOUT = (
    "Features of a frozen teacher, embedded once; arrays (image, channel, y, x), NaN where there "
    "is no feature; the contract is store/README.md of ssr-offline"
)


class MetadataDigests(BaseModel):
    """Content of `ledger/metadata.json`: SHA-256 of every other file that is no shard's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    files: dict[str, str]
    check: str = ""

    @classmethod
    def of(cls, files: Mapping[str, str]) -> "MetadataDigests":
        """Note digests, with one over all of them."""
        check = fingerprint_of({"format": FORMAT, "files": files})
        return cls(format=FORMAT, files=dict(files), check=check)

    def json_bytes(self) -> bytes:
        """Return what the file holds."""
        return canonical_json(self.model_dump(mode="json"))


class RootAttributes(BaseModel):
    """Attributes of the root group: the specification, written out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str
    format: Literal[1]
    fingerprint: str
    domain: str
    channels: int
    grid_px: Size
    shard_images: int
    codec: CodecName
    provenance: dict[str, JsonValue]

    @classmethod
    def of(cls, spec: StoreSpec) -> "RootAttributes":
        """Write out a specification."""
        values = {field.name: getattr(spec, field.name) for field in fields(spec)}
        values |= {"about": _ABOUT, "format": FORMAT, "fingerprint": spec.fingerprint}
        return cls.model_validate_json(canonical_json(values))

    def spec(self) -> StoreSpec:
        """Read the specification back."""
        return StoreSpec(
            domain=self.domain,
            channels=self.channels,
            grid_px=self.grid_px,
            shard_images=self.shard_images,
            codec=self.codec,
            provenance=self.provenance,
        )


class _Format(BaseModel):
    format: int


class _RootOfAnyFormat(BaseModel):
    attributes: _Format


class _Root(BaseModel):
    attributes: RootAttributes


@dataclass(frozen=True)
class Header:
    """The sound metadata of one store.

    Attributes:
        files: Its files.
        spec: Its specification.
        levels: Levels that it has an array for, finest first.
        slots: Its images along the image axis.
        scales: The scale of each level, where the codec has one.
    """

    files: Files
    spec: StoreSpec
    levels: tuple[str, ...]
    slots: tuple[Slot, ...]
    scales: Scales

    def level_fingerprint(self, level: str) -> str:
        """Return the fingerprint of a level, with its scale where it has one."""
        return level_fingerprint(self.spec, level, self.scales)


def read_spec(files: Files) -> StoreSpec:
    """Read the specification of a store.

    Raises:
        StoreMissingError: There is no store.
        StoreMismatchError: The store has another format, or its attributes were changed.
        StoreError: The file of the attributes is damaged.
    """
    data = _read_file(files, ROOT_FILE)
    try:
        found = _RootOfAnyFormat.model_validate_json(data).attributes.format
    except ValidationError as error:
        raise _damaged(files, ROOT_FILE) from error
    if found != FORMAT:
        raise StoreMismatchError(
            f"the store {files.url} has format {found}, this version reads format {FORMAT}: move "
            "it away and run `ssr embed`, or use the version that wrote it"
        )
    try:
        attributes = _Root.model_validate_json(data).attributes
        spec = attributes.spec()
    except (ValidationError, StoreError) as error:
        raise _damaged(files, ROOT_FILE) from error
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
        StoreError: A metadata file is not the one that its writer vouched for.
    """
    spec = read_spec(files)
    try:
        digests = MetadataDigests.model_validate_json(_read_file(files, METADATA_FILE)).files
    except ValidationError as error:
        raise _damaged(files, METADATA_FILE) from error
    for name, digest in digests.items():
        if sha256(_read_file(files, name)) != digest:
            raise _damaged(files, name)
    levels = tuple(level for level in LEVELS if f"{level}/{ROOT_FILE}" in digests)
    return Header(
        files=files,
        spec=spec,
        levels=levels,
        slots=Ledger(files).read_slots(),
        scales=read_scales(files, spec, levels),
    )


def read_scales(files: Files, spec: StoreSpec, levels: Iterable[str]) -> Scales:
    """Read the scale of each level; levels whose scale is absent or damaged are left out.

    Raises:
        OSError: A file cannot be read.
    """
    scales = {}
    for level in levels if Codec(spec.codec).scaled else ():
        try:
            scale = parse_scale(files.read(scale_file(level)), spec.channels)
        except FileNotFoundError:
            continue
        if scale is not None:
            scales[level] = scale
    return scales


def read_metadata(files: Files) -> bytes | None:
    """Read the digests of the metadata as they are; None where a store has lost them.

    Raises:
        StoreMissingError: There is no store.
    """
    try:
        return files.read(METADATA_FILE)
    except FileNotFoundError as error:
        if files.names(LEDGER) or files.names(""):
            return None
        raise StoreMissingError(f"no feature store at {files.url}: run `ssr embed`") from error


def _read_file(files: Files, name: str) -> bytes:
    try:
        return files.read(name)
    except FileNotFoundError as error:
        if files.names(LEDGER):
            raise _damaged(files, name) from error
        raise StoreMissingError(f"no feature store at {files.url}: run `ssr embed`") from error
    except OSError as error:
        raise StoreError(
            f"cannot read {files.url}/{name} ({error.strerror or error}): correct the path or its "
            "permissions"
        ) from error


def _damaged(files: Files, name: str) -> StoreError:
    return StoreError(
        f"{name} of the store {files.url} is missing, damaged or from an interrupted write: run "
        "`ssr embed`, which mends the metadata and keeps the features"
    )
