"""`ssr report`: what was run, on what, and what came out, as one HTML file that needs no network.

`_Run` reads the parts, `page.html.jinja` shows them. Every part stands alone: what is not made yet,
or damaged, leaves a line that says what makes it.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pipeline.checks import require_current_manifest, require_current_stores
from pipeline.console import Report, size
from pipeline.costs import Cost, cost_of, versions
from pipeline.options import RUN
from pipeline.params import Params
from pipeline.pictures import Painter, read_photo
from pipeline.report.chart import Chart, charts
from pipeline.tables import UNTRAINED, sizes_text, statistics_text
from stages.embed.planned import weights_of
from stages.evaluate.model import measured_card, student_folder
from stages.evaluate.pictures import read_triptych
from stages.evaluate.scores import read_confusion, read_scores
from stages.prepare.findings import findings
from stages.prepare.manifest import ImageRecord, Manifest
from stages.prepare.stage import summarise
from stages.student.config import ONCE
from stages.student.saved import read_card
from stages.train.workspace import INCIDENTAL, differences
from store.atomic import write_text
from store.errors import (
    DataError,
    SSRError,
    StoreIncompleteError,
    StoreMismatchError,
    StoreMissingError,
)
from store.files import join
from store.fingerprint import sha256_of_file
from store.index import Index
from store.read import FeatureReader
from store.summary import inspect

REPORT: Final = "report.html"
"""Name of the file in a run's folder."""

PICTURES: Final = 2
"""Images of a domain that are shown beside their features."""

WIDEST_PX, HIGHEST_PX = 480, 960
JPEG_QUALITY: Final = 82

_PATHS: Final = ("init", "student.weights")
"""Keys of `train` that hold folders of a machine."""

Content = TypeVar("Content")
Further = TypeVar("Further")


@dataclass(frozen=True)
class Part(Generic[Content]):
    """One part of the page, or the line that says why it is not there and what to do."""

    content: Content | None
    missing: str = ""

    @classmethod
    def of(cls, read: Callable[[], Content]) -> "Part[Content]":
        """Read a part; what is not made yet, or damaged, leaves the others alone."""
        try:
            return cls(read())
        except (SSRError, OSError) as error:
            return cls(None, str(error))


def write_report(
    params: Params,
    *,
    params_path: Path,
    overrides: Sequence[str],
    run: Path,
    manifest: Path,
    index: Path,
    progress: Report,
) -> Path:
    """Write `<run>/report.html` from whatever there is; return the file.

    Args:
        params: All sections.
        params_path: Where they were read, to be quoted.
        overrides: What was asked for beside it, to be quoted, too.
        run: Folder of the run.
        manifest: The manifest file.
        index: The index of features.
        progress: Called with (done, in all, what).

    Raises:
        DataError: There is nothing to report: no such run, or neither a manifest nor a run.
    """
    if not run.is_dir() and run != RUN:
        raise DataError(f"{run}: there is no such folder; give one that `ssr train` wrote")
    if not run.is_dir() and not manifest.is_file():
        raise DataError(
            f"nothing to report yet: there is neither {manifest} nor {run}; run `dvc repro`, "
            "or at least `ssr prepare`"
        )
    of_run = _Run(params, run, manifest, index)
    readers = (
        of_run.data, of_run.stores, of_run.student, of_run.curves, of_run.results, of_run.costs
    )  # fmt: skip
    parts: dict[str, Part[Any]] = {}
    for number, read in enumerate(readers, start=1):
        progress(number, len(readers), read.__name__)
        parts[read.__name__] = Part.of(read)
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": size, "sizes": sizes_text, "statistics": statistics_text, "duration": _duration
    }  # fmt: skip
    text = environment.get_template("page.html.jinja").render(
        **parts,
        title=of_run.title(),
        untrained=UNTRAINED if _untrained(parts["student"], parts["stores"]) else "",
        warnings=of_run.warnings(),
        overrides=overrides,
        params=params_path.read_text(),
    )
    write_text(run / REPORT, text)
    return run / REPORT


class _Run:
    """The parts of the page; each method that has no argument raises what keeps its part away."""

    def __init__(self, params: Params, run: Path, manifest_path: Path, index_path: Path) -> None:
        self._params, self._run = params, run
        self._manifest_path, self._index_path = manifest_path, index_path

    @cached_property
    def _manifest(self) -> Manifest:
        return Manifest.read(self._manifest_path)

    @cached_property
    def _records(self) -> Mapping[str, ImageRecord]:
        return {record.image_id: record for record in self._manifest.records}

    @cached_property
    def _index(self) -> Index:
        return Index.read(self._index_path)

    def data(self) -> dict[str, Any]:
        """Splits, classes and what looks wrong."""
        splits, classes = summarise(self._manifest), self._manifest.classes
        return {
            "splits": splits,
            "labelled": [split for split in splits if split.class_shares is not None],
            "classes": [
                (name, "#{:02x}{:02x}{:02x}".format(*color))
                for name, color in zip(classes.names, classes.palette, strict=True)
            ],
            "findings": findings(self._manifest, unused_labels=0),
            "skipped": self._manifest.skipped,
            "sha256": sha256_of_file(self._manifest_path),
        }

    def stores(self) -> dict[str, Part[dict[str, Any]]]:
        """Summarise the store of each domain."""
        records, index = self._records, self._index
        if not index.stores:
            raise StoreMissingError("no store: embed.domains is [], so nothing was embedded")
        domains = dict.fromkeys([*index.stores, *(r.domain for r in records.values())])
        return {domain: self._store(domain) for domain in domains}

    def student(self) -> dict[str, Any]:
        """What is noted beside the student."""
        inside = self._run.is_dir()
        card = read_card(student_folder(self._run, "student") if inside else self._run / "student")
        noted = card.meta.get("recipe")
        recipe = noted if isinstance(noted, dict) else {}
        asked = self._params.train.model_dump(mode="json", exclude=INCIDENTAL)
        trained = card.meta.get("teacher_trained")
        return {
            "weights": card.weights_sha256[:12],
            "run": str(card.meta.get("run", "")),
            "backbone": card.student.backbone,
            "head": card.student.head,
            "start": card.meta.get("weights"),
            "read_no_features": trained is None and "teacher_trained" in card.meta,
            "teacher_trained": trained,
            "iterations": recipe.get("iterations"),
            "changed": [
                f"train.{key}: {value} is asked for, {other} when it was trained"
                for key, value, other in differences(asked, recipe)
                if key not in _PATHS
            ],
        }

    def curves(self) -> tuple[Chart, ...]:
        """What training logged."""
        return charts(self._run)

    def results(self) -> dict[str, Any]:
        """The last evaluation."""
        scores, plain = read_scores(self._run), ONCE.model_dump(mode="json")
        inference = scores.inference.items()
        return {
            "scores": scores,
            "inference": [f"{key} {value}" for key, value in inference if plain.get(key) != value],
            "confusion": Part.of(self._confusion),
            "pictures": Part.of(self._pictures),
        }

    def costs(self) -> dict[str, Any]:
        """Time and memory of each stage; versions of the last run, where it noted them."""
        data = self._manifest_path.parent
        folders = {"prepare": data, "embed": data, "train": self._run, "evaluate": self._run}
        found = {stage: cost_of(stage, folder) for stage, folder in folders.items()}
        stages = [cost for cost in found.values() if cost is not None]
        last = found["train"] or found["evaluate"] or found["embed"] or found["prepare"]
        return {
            "stages": [(cost, _done(cost)) for cost in stages],
            "versions": last.versions if last else versions(),
            "when": "when it was run" if last else "now",
        }

    def title(self) -> str:
        """Name both datasets: the kind, with its style if drawn, or a user's own folder."""
        names, roots = [], self._params.prepare.roots
        listed = Part.of(lambda: self._manifest).content
        for domain, keys in (listed.sources if listed else {}).items():
            kind, style = (str(keys.get(name, "")) for name in ("kind", "style"))
            own = kind == "folder" and domain in roots
            names.append(roots[domain].name if own else f"{kind} {style}".strip())
        return " to ".join(names)

    def warnings(self) -> list[str]:
        """Say what on the page does not belong together, or not to the parameters."""
        found = []
        if self._manifest_path.is_file():
            found.append(
                Part.of(
                    lambda: require_current_manifest(
                        self._params, self._manifest, self._manifest_path
                    )
                ).missing
            )
        if self._index_path.is_file():
            found.append(
                Part.of(lambda: require_current_stores(self._params, self._index_path)).missing
            )
        measured = Part.of(lambda: measured_card(self._run, read_scores(self._run)))
        if measured == Part(None):
            found.append(
                "The evaluation below is of another student than the present one: run "
                "`ssr evaluate`."
            )
        return list(filter(None, found))

    def _store(self, domain: str) -> Part[dict[str, Any]]:
        def read() -> dict[str, Any]:
            if domain not in self._index.stores:
                raise StoreMissingError(
                    f"there are no features of {domain}: add it to embed.domains and run "
                    "`ssr embed`"
                )
            entry = self._index.stores[domain]
            url = join(self._params.store.location, entry.path)
            reader = FeatureReader(url)
            teacher = entry.provenance.get("teacher")
            if not isinstance(teacher, dict) or not teacher.keys() >= {"architecture", "trained"}:
                raise StoreMismatchError(
                    f"the index does not say of which teacher the {domain} store is: run "
                    "`ssr embed`"
                )
            return {
                "summary": inspect(url),
                "teacher": str(teacher["architecture"]),
                "weights": weights_of(teacher),
                "trained": bool(teacher["trained"]),
                "pictures": Part.of(lambda: self._feature_pictures(reader)),
            }

        return Part.of(read)

    def _feature_pictures(self, reader: FeatureReader) -> list[dict[str, Any]]:
        """Draw some images beside all levels of their features."""
        roots = self._params.prepare.roots
        sizes_px = {name: record.resized_size_px for name, record in self._records.items()}
        painter = Painter(reader, sizes_px)
        known = [
            record
            for name, record in self._records.items()
            if name in painter.images and painter.images[name].content == record.content
        ]
        if not known:
            raise StoreIncompleteError(
                f"{reader.header.files.url} has no image of the manifest as it is now: run "
                "`ssr embed`"
            )
        if known[0].domain not in roots:
            raise DataError(
                f"section prepare names no {known[0].domain}, but the manifest has its images"
            )
        return [
            {
                "image_id": record.image_id,
                "photo": _photo(Image.fromarray(read_photo(record, roots[record.domain]))),
                "levels": [
                    _drawing(Image.fromarray(painter.paint(record.image_id, level)))
                    for level in reader.header.levels
                ],
            }
            for record in known[:: max(1, len(known) // PICTURES)][:PICTURES]
        ]

    def _confusion(self) -> dict[str, Any]:
        """What is taken for what: a row per label that occurs, shares of its pixels in percent."""
        classes, counts = read_confusion(self._run / "confusion.csv")
        totals = counts.sum(axis=1)
        rows = {n: (100 * counts[n] / totals[n]).tolist() for n in np.flatnonzero(totals > 0)}
        return {"classes": classes, "rows": [(classes[n], shares) for n, shares in rows.items()]}

    def _pictures(self) -> list[dict[str, Any]]:
        folder, rows = self._run / "pictures", []
        for path in sorted(folder.glob("[0-9][0-9][0-9]-*.png")):
            image_id, (image, label, prediction) = read_triptych(path)
            rows.append(
                {
                    "image_id": image_id,
                    "image": _photo(image),
                    "label": _drawing(label),
                    "prediction": _drawing(prediction),
                }
            )
        if not rows:
            raise DataError(
                f"{folder}: holds no pictures; evaluate.pictures says how many are drawn"
            )
        return rows


def _untrained(student: Part[Any], stores: Part[Any]) -> bool:
    """Tell whether the student, or where there is none a store, is of random weights."""
    if student.content is not None:
        return student.content["teacher_trained"] is False
    parts = (stores.content or {}).values()
    return any(part.content is not None and not part.content["trained"] for part in parts)


def _done(cost: Cost) -> str:
    done = {"train": f"{cost.units} steps", "embed": f"{cost.units} images"}.get(cost.stage, "")
    return done if cost.finished else f"{done}, interrupted".removeprefix(", ")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _photo(image: Image.Image) -> str:
    """Turn a photo into a JPEG as a data URI, shrunk to fit."""
    return _uri(image, "JPEG", Image.Resampling.BOX)


def _drawing(image: Image.Image) -> str:
    """Turn flat colours into a PNG as a data URI, shrunk to fit without mixing them."""
    return _uri(image, "PNG", Image.Resampling.NEAREST)


def _uri(image: Image.Image, kind: str, how: Image.Resampling) -> str:
    small = image.copy()
    small.thumbnail((WIDEST_PX, HIGHEST_PX), how, reducing_gap=None)
    small = small.quantize(256) if kind == "PNG" and small.getcolors(256) else small
    file = BytesIO()
    small.save(file, kind, quality=JPEG_QUALITY, optimize=True)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
