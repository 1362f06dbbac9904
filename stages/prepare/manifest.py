"""The manifest: every image of both domains, with what later stages need to know about it.

A Parquet file that pandas and dask read; the class table and the label tables travel in its schema
metadata, so that a manifest and the two data folders are all that training and evaluation need. A
digest of all this is there, too: a flipped bit is noticed.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from stages.fields import Domain, Split
from stages.prepare.geometry import Size
from stages.prepare.labels import ClassTable, LabelTable
from store.atomic import write_bytes
from store.errors import DataError
from store.fingerprint import fingerprint_of

__all__ = ["Domain", "ImageRecord", "Manifest", "Split"]

_FORMAT: Final = 2
_METADATA: Final = b"ssr.manifest"
_DIGEST: Final = b"ssr.digest"

_FRAMES: Final = ("raw", "resized", "working")
_SCHEMA: Final = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        *(
            pa.field(f"{frame}_{side}", pa.int32(), nullable=False)
            for frame in _FRAMES
            for side in ("height", "width")
        ),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("label_sha256", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of one split.

    Attributes:
        image_id: Stable key, "<domain>/<split>/<path without suffix>".
        image: POSIX path relative to the domain's root.
        label: Likewise, None where there is no label, and in the target's train split but for the
            images that `prepare.target.labelled` chose.
        raw_size_px: (height, width) of the file, upright.
        resized_size_px: After the dataset's fit, before padding.
        working_size_px: After padding; the frame of all further geometry.
        sha256: Of the image file.
        class_pixels: Pixels per class at raw label resolution; None without label.
        label_sha256: Of the label file; None without label.
    """

    image_id: str
    domain: Domain
    split: Split
    image: str
    label: str | None
    raw_size_px: Size
    resized_size_px: Size
    working_size_px: Size
    sha256: str
    class_pixels: tuple[int, ...] | None
    label_sha256: str | None

    @property
    def content(self) -> str:
        """Hash of all that the teacher's features of this image depend on."""
        key = f"{self.sha256} {self.resized_size_px} {self.working_size_px}"
        return sha256(key.encode()).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The images of a run and the meaning of their labels.

    Attributes:
        records: Sorted by domain, split and image id.
        labels: How each domain's label files are read.
        skipped: Ids of images that could not be read and have no record -> why.
        sources: Section of params.yaml that each domain was listed from, but for its root, which
            may be another one elsewhere.
        odd: Sentences about files that look wrong and are no error; see `stage.findings`.
    """

    classes: ClassTable
    records: tuple[ImageRecord, ...]
    labels: Mapping[Domain, LabelTable]
    skipped: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[Domain, Mapping[str, Any]] = field(default_factory=dict)
    odd: tuple[str, ...] = ()

    def select(
        self, *, domain: Domain | None = None, split: Split | None = None
    ) -> tuple[ImageRecord, ...]:
        """Return the records of a domain, of a split, or of both."""
        return tuple(
            record
            for record in self.records
            if domain in (None, record.domain) and split in (None, record.split)
        )

    def write(self, path: Path) -> bool:
        """Write the Parquet file unless it holds an equal manifest; tell whether it was written.

        Equal manifests give equal bytes, but perhaps others in another version of pyarrow.
        """
        rows = tuple(sorted(self.records, key=lambda r: (r.domain, r.split, r.image_id)))
        with suppress(DataError):
            if Manifest.read(path) == replace(self, records=rows):
                return False
        described: dict[str, Any] = {
            "format": _FORMAT,
            "classes": [
                {"name": name, "color": color}
                for name, color in zip(self.classes.names, self.classes.palette, strict=True)
            ],
            "labels": {domain: table.to_json() for domain, table in self.labels.items()},
            "skipped": dict(self.skipped),
            "sources": {domain: dict(source) for domain, source in self.sources.items()},
        }
        if self.odd:
            described["odd"] = self.odd
        tables = json.dumps(described, sort_keys=True).encode()
        table = pa.Table.from_pylist([_row_of(record) for record in rows], _SCHEMA)
        table = table.replace_schema_metadata({_METADATA: tables, _DIGEST: _digest(table, tables)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        write_bytes(path, sink.getvalue().to_pybytes())
        return True

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest back, and compare it with the digest of its content.

        Raises:
            DataError: There is none at `path`, it cannot be read, is damaged or of another version.
        """
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise DataError(f"{path}: there is no manifest: run `ssr prepare` first") from error
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror or error}): correct its permissions, or "
                "run the command again once it can be read"
            ) from error
        try:
            table = pq.read_table(  # of a few MB: no threads that outlive a short command
                pa.BufferReader(data), page_checksum_verification=True, use_threads=False
            )
            metadata = table.schema.metadata or {}
            if metadata[_DIGEST] != _digest(table, metadata[_METADATA]):
                raise ValueError("the content is not what the digest is of")
            tables = json.loads(metadata[_METADATA])
            if tables["format"] != _FORMAT:
                raise ValueError(f"format {tables['format']}")
            return cls(
                classes=ClassTable(
                    names=tuple(entry["name"] for entry in tables["classes"]),
                    palette=tuple((r, g, b) for r, g, b in (e["color"] for e in tables["classes"])),
                ),
                records=tuple(_record_of(row) for row in table.to_pylist()),
                labels={d: LabelTable.from_json(t) for d, t in tables["labels"].items()},
                skipped=tables["skipped"],
                sources=tables["sources"],
                odd=tuple(tables.get("odd", ())),
            )
        except MemoryError:  # pyarrow has its own; says nothing of the file
            raise
        except Exception as error:  # damage can trip Parquet, JSON and all that is made of them
            raise DataError(
                f"{path}: is damaged or not a manifest of this version: run `ssr prepare` again, "
                "which rewrites it"
            ) from error


def _digest(table: pa.Table, tables: bytes) -> bytes:
    """Hash what a manifest says, however the library spells it in Parquet."""
    return fingerprint_of({"columns": table.to_pydict(), "tables": tables.decode()}).encode()


def _row_of(record: ImageRecord) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(record, name, None) for name in _SCHEMA.names}
    for frame in _FRAMES:
        row[f"{frame}_height"], row[f"{frame}_width"] = getattr(record, f"{frame}_size_px")
    return row


def _record_of(row: dict[str, Any]) -> ImageRecord:
    for frame in _FRAMES:
        row[f"{frame}_size_px"] = (row.pop(f"{frame}_height"), row.pop(f"{frame}_width"))
    if row["class_pixels"] is not None:
        row["class_pixels"] = tuple(row["class_pixels"])
    record = ImageRecord(**row)
    paths = [PurePosixPath(path) for path in (record.image, record.label) if path is not None]
    if any(path.is_absolute() or ".." in path.parts or "\0" in str(path) for path in paths):
        raise ValueError(f"{record.image_id} lies outside of its dataset")
    return record
