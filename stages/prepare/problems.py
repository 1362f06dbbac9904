"""Everything that is wrong with the datasets, in a line for each kind."""

from collections.abc import Sequence
from typing import Literal

from stages.prepare.config import (
    CamvidConfig,
    Domain,
    FolderConfig,
    SourceConfig,
    Split,
    root_of,
)
from stages.prepare.datasets.listing import Item, first_names
from stages.prepare.labels import UnknownValuesError
from store.errors import DataError


def lines_of(
    domain: Domain,
    source: SourceConfig,
    bad: Sequence[tuple[Item, DataError]],
    hints: Sequence[str],
) -> list[str]:
    """Group what is wrong with single files by its cure, the end of every such message.

    Args:
        domain: Of the dataset.
        source: The dataset.
        bad: Images with what is wrong with them or their labels.
        hints: What to do about labels that are not found.

    Returns:
        Lines that begin with the key that names the files' folder.
    """
    root = root_of(source)
    groups: dict[tuple[str, str, bool], list[tuple[Item, DataError]]] = {}
    for item, error in bad:
        unlabelled = item.label is not None and not (root / item.label).is_file()
        is_label = unlabelled or str(error).startswith(f"{root / (item.label or '')}: ")
        key = _key(domain, source, item.split, "labels" if is_label else "images")
        cause = error.__cause__
        kind = (
            cause.what if isinstance(cause, UnknownValuesError) else str(error).rpartition(": ")[2]
        )
        groups.setdefault((key, kind, unlabelled), []).append((item, error))
    return [
        "; ".join((_line(key, group), *(hints if unlabelled else ())))
        for (key, _, unlabelled), group in groups.items()
    ]


def block_of(lines: Sequence[str]) -> str:
    """Return one line as it is, several under a heading."""
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join((f"{len(lines)} kinds of problems with the data:", *lines))


def _line(key: str, group: Sequence[tuple[Item, DataError]]) -> str:
    (_, first), *rest = group
    causes = [error.__cause__ for _, error in group]
    unknown = [cause for cause in causes if isinstance(cause, UnknownValuesError)]
    text = str(first)
    if rest and len(unknown) == len(group):
        values = sorted({value for cause in unknown for value in cause.values})
        text = text.replace(str(unknown[0]), str(UnknownValuesError(unknown[0].what, values)))
    more = f" ({len(rest)} more: {first_names([item.image for item, _ in rest])})" if rest else ""
    return f"{key}: {text}{more}"


def _key(
    domain: Domain, source: SourceConfig, split: Split, what: Literal["images", "labels"]
) -> str:
    match source:
        case FolderConfig():
            place = "train" if split == "val" and source.val_images is None else split
            return f"prepare.{domain}.{place}_{what}"
        case CamvidConfig():
            return f"prepare.{domain}.splits.{split}"
    return f"prepare.{domain}.root"
