"""What the report says of the data: images and labels per split, and how often classes occur."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.prepare.findings import findings
from stages.prepare.manifest import Manifest
from stages.prepare.stage import SplitSummary, summarise
from store.fingerprint import sha256_of_file


@dataclass(frozen=True)
class ClassRow:
    """One class: its colour and its percent of the labelled pixels of each labelled split."""

    name: str
    color: str
    percents: tuple[float, ...]


@dataclass(frozen=True)
class DataSummary:
    """What `ssr prepare` found.

    Attributes:
        splits: The splits.
        labelled: Names of those with labels, the columns of `classes`.
        classes: The classes, in the order of their ids.
        findings: What looks wrong; label files of the target that are not used are known to
            `ssr prepare` alone.
        skipped: Image id -> why it was left out.
        sha256: Of the manifest.
    """

    splits: tuple[SplitSummary, ...]
    labelled: tuple[str, ...]
    classes: tuple[ClassRow, ...]
    findings: tuple[str, ...]
    skipped: dict[str, str]
    sha256: str


def summarise_data(manifest: Manifest, path: Path) -> DataSummary:
    """Summarise a manifest that was read from `path`."""
    splits = summarise(manifest)
    labelled = [split for split in splits if split.class_shares is not None]
    return DataSummary(
        splits=splits,
        labelled=tuple(_name(split) for split in labelled),
        classes=tuple(
            ClassRow(name, css_color(color), tuple(_percents(labelled, index)))
            for index, (name, color) in enumerate(
                zip(manifest.classes.names, manifest.classes.palette, strict=True)
            )
        ),
        findings=findings(manifest, unused_labels=0),
        skipped=dict(manifest.skipped),
        sha256=sha256_of_file(path),
    )


def css_color(color: Sequence[int]) -> str:
    """Write red, green and blue as CSS does."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def _name(split: SplitSummary) -> str:
    return f"{split.domain} {split.split}"


def _percents(splits: Sequence[SplitSummary], index: int) -> list[float]:
    return [100 * split.class_shares[index] for split in splits if split.class_shares is not None]
