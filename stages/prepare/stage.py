"""The prepare stage: two datasets to one manifest, with all problems and oddities of the data."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from stages.fields import Domain, Section, Split, WindowPx
from stages.prepare.datasets import SourceConfig
from stages.prepare.datasets.dataset import Item, Listing, Progress, first_names
from stages.prepare.geometry import Size
from stages.prepare.labels import UnknownValuesError
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.scan import (
    Measurement,
    image_id_of,
    require_classes,
    scan,
    select,
    without_labels,
)
from store.errors import DataError, DataUnreadableError


class PrepareConfig(Section):
    """What to train on: a labelled source domain and the target domain to adapt to."""

    source: SourceConfig = Field(description="The labelled domain.")
    target: SourceConfig | None = Field(
        description="The domain to adapt to, unlabelled in training but for `labelled` images; "
        "null for source only."
    )

    pad_to_px: WindowPx = Field(
        description="Side up to which smaller images are padded: `train.crop_px`; with more, some "
        "crops show padding alone."
    )
    on_bad_image: Literal["fail", "skip"] = Field(
        description="Images or labels that cannot be read end `prepare`, or are left out and "
        "listed. Those that change afterwards end whatever reads them."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source.labelled:
            raise ValueError(
                "source.labelled is a key of the target, as all of the source is labelled: "
                "remove it"
            )
        return self

    @property
    def domains(self) -> dict[Domain, SourceConfig]:
        """The domains that there are, source first."""
        if self.target is None:
            return {"source": self.source}
        return {"source": self.source, "target": self.target}

    @property
    def roots(self) -> dict[Domain, Path]:
        """Where the paths of the manifest begin, per domain; `~` is expanded."""
        return {domain: config.folder for domain, config in self.domains.items()}


_OTHER_AREA: Final = 16
"""How many times more or fewer pixels another kind of picture has."""


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """One split of one domain in numbers; sizes are in order of frequency.

    `class_shares` are those of the pixels that have a class, None without labels.
    """

    domain: Domain
    split: Split
    images: int
    labelled: int
    raw_sizes_px: tuple[Size, ...]
    working_sizes_px: tuple[Size, ...]
    class_shares: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class PrepareResult:
    """The manifest and whether its file had to be written; what looks wrong and is not an error."""

    manifest: Manifest
    path: Path
    changed: bool
    findings: tuple[str, ...]


def run(config: PrepareConfig, *, out: Path, cache: Path, progress: Progress) -> PrepareResult:
    """List and check both datasets, and write the manifest `out`.

    Every image and label is decoded once; later runs look only at files that changed since the file
    `cache` was written. A manifest that says the same is not rewritten. On an error the old one
    stays.

    Labels of the target's train split enter the manifest for the images that `labelled` names, and
    never for others, even where there are files: no later stage can use them by mistake.

    Raises:
        DataError: Data is missing, damaged or inconsistent; has a line for each kind of problem.
    """
    problems: list[str] = []
    said: list[str] = []
    odd: list[str] = []
    listings: dict[Domain, Listing] = {}
    records: list[ImageRecord] = []
    skipped: dict[str, str] = {}
    for domain, source in config.domains.items():
        key = f"prepare.{domain}"
        try:
            listing = listings[domain] = source.scan(progress)
            problems += (f"{key}: {line}" for line in listing.problems)
            require_classes(listing, listings.get("source", listing).classes, key)
            items = select(key, listing.items, source)
            train = [item for item in items if item.split == "train"]
            if domain == "source" and train and not any(item.label for item in train):
                raise DataError(
                    f"{key} names no labels of its images to train on, and the source is what "
                    "labels come from: name their folder, or take another source"
                )
            if domain == "target":
                items, unused = without_labels(items, source)
                if unused:
                    said.append(
                        f"target train: {unused} label files are there and are not used; the "
                        "target trains without them"
                    )
        except DataError as error:
            problems.append(str(error))
            continue
        found, bad = scan(
            domain,
            items,
            source,
            listing,
            what=domain,
            at_least_px=config.pad_to_px,
            cache=cache,
            progress=progress,
        )
        # what could not be looked at may be sound: never left out
        fails = config.on_bad_image == "fail"
        wrong = [each for each in bad if fails or isinstance(each[1], DataUnreadableError)]
        problems += _grouped(domain, source, wrong)
        if not problems and not any(record.split == "train" for record, _ in found):
            why = f"that can be read: {bad[0][1]}" if bad else "left: name some, or exclude fewer"
            problems.append(f"{key} has no image to train on {why}")
        records += (record for record, _ in found)
        skipped |= {image_id_of(domain, item): str(error) for item, error in bad}
        odd += _odd_files(domain, found)
        said += (f"{domain}: {line}" for line in listing.findings)
    if problems:
        heading = f"{len(problems)} kinds of problems with the data:"
        raise DataError(problems[0] if len(problems) == 1 else "\n  ".join((heading, *problems)))
    manifest = Manifest(
        classes=listings["source"].classes,
        records=tuple(sorted(records, key=lambda r: (r.domain, r.split, r.image_id))),
        labels={domain: listing.labels for domain, listing in listings.items()},
        skipped=skipped,
        sources={domain: source.identity for domain, source in config.domains.items()},
        odd=tuple(odd),
    )
    changed = manifest.write(out)
    said += findings(manifest)
    return PrepareResult(manifest, out, changed, tuple(said))


def summarise(manifest: Manifest) -> tuple[SplitSummary, ...]:
    """Count images, sizes and classes per domain and split."""
    summaries = []
    for domain, split in dict.fromkeys((r.domain, r.split) for r in manifest.records):
        records = manifest.select(domain=domain, split=split)
        counted = [record.class_pixels for record in records if record.class_pixels is not None]
        totals = [sum(column) for column in zip(*counted, strict=True)]
        raw = Counter(record.raw_size_px for record in records)
        working = Counter(record.working_size_px for record in records)
        summary = SplitSummary(
            domain=domain,
            split=split,
            images=len(records),
            labelled=len(counted),
            raw_sizes_px=tuple(size for size, _ in raw.most_common()),
            working_sizes_px=tuple(size for size, _ in working.most_common()),
            class_shares=tuple(n / max(sum(totals), 1) for n in totals) if counted else None,
        )
        summaries.append(summary)
    return tuple(summaries)


def findings(manifest: Manifest) -> list[str]:
    """Say what a person should know before training on a manifest; none of it is an error."""
    said: list[str] = []
    counted = [r.class_pixels for r in manifest.select(domain="source", split="train")]
    seen = [sum(column) for column in zip(*(c for c in counted if c is not None), strict=True)]
    missing = [name for name, n in zip(manifest.classes.names, seen, strict=True) if not n]
    if missing:
        said.append(
            f"source train: no label shows {', '.join(missing)} ({len(missing)} of {len(seen)} "
            "classes): nothing teaches them, and they count in the mean IoU"
        )
    said += manifest.odd
    copies: dict[str, dict[str, ImageRecord]] = defaultdict(dict)
    for record in manifest.records:
        copies[record.sha256].setdefault(f"{record.domain} {record.split}", record)
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for by_split in copies.values():
        for one, other in combinations(by_split, 2):
            shared[one, other].append(f"{by_split[one].image}, there {by_split[other].image}")
    for (one, other), pairs in shared.items():
        copied = f"share {len(pairs)} images, byte for byte; the first is {pairs[0]}"
        said.append(f"{one} and {other} {copied}")
    return said


def _odd_files(domain: Domain, found: Sequence[tuple[ImageRecord, Measurement]]) -> Iterator[str]:
    """Count the files that are unlike the others of their split, or whose meaning is open."""
    for split in dict.fromkeys(record.split for record, _ in found):
        images = [(record, facts) for record, facts in found if record.split == split]
        one_channel = [record.image for record, facts in images if facts.one_channel]
        usual = statistics.median_high(math.prod(record.raw_size_px) for record, _ in images)
        other = [
            record.image
            for record, _ in images
            if not 1 / _OTHER_AREA < math.prod(record.raw_size_px) / usual < _OTHER_AREA
        ]
        for files, what in (
            (
                one_channel if len(one_channel) < len(images) else (),
                "images have one channel, as class ids have, and the others have colours: exclude "
                "what is not an image",
            ),
            (
                other,
                f"images have {_OTHER_AREA} times more or fewer pixels than is usual, as "
                "thumbnails have: exclude what is not an image",
            ),
            (
                [record.image for record, facts in images if facts.turn_open],
                "images are turned by EXIF and their labels are not, or otherwise, and both fit: "
                "look whether they lie on each other; if not, copy the tag to the label",
            ),
            (
                [record.label for record, facts in images if facts.resampled],
                "labels look resampled or lossily compressed: where two ids meet, many pixels hold "
                "an id in between: make them anew with nearest neighbour and as PNG",
            ),
        ):
            if files:
                count = f"{len(files)} of {len(images)}"
                yield f"{domain} {split}: {count} {what}; the first is {files[0]}"


def _grouped(
    domain: Domain, source: SourceConfig, bad: Sequence[tuple[Item, DataError]]
) -> Iterator[str]:
    """Group what is wrong with single files by its cure, the end of every such message.

    The lines begin with the key that names the files' folder.
    """
    groups: dict[tuple[str, str], list[tuple[Item, DataError]]] = defaultdict(list)
    for item, error in bad:
        is_label = str(error).startswith(f"{source.folder / (item.label or '')}: ")
        key = source.key_of(item.split, "labels" if is_label else "images")
        cause = error.__cause__
        unknown = cause.what if isinstance(cause, UnknownValuesError) else None
        groups[key, unknown or str(error).rpartition(": ")[2]].append((item, error))
    for (key, _), group in groups.items():
        (_, first), *rest = group
        text = f"prepare.{domain}.{key}: {first}"
        causes = [error.__cause__ for _, error in group]
        if all_unknown := [cause for cause in causes if isinstance(cause, UnknownValuesError)]:
            values = sorted({value for cause in all_unknown for value in cause.values})
            every = UnknownValuesError(all_unknown[0].what, values)
            text = text.replace(str(all_unknown[0]), str(every))
        if rest:
            text += f" ({len(rest)} more: {first_names([item.image for item, _ in rest])})"
        yield text
