"""`ssr report`: what was run, on what, and what came out, as one HTML file that needs no network.

`_Run` reads the parts, `page.html.jinja` shows them. Every part stands alone: what is not made yet,
or damaged, leaves a line that says what makes it.
"""

import csv
import math
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from rich.filesize import decimal

from pipeline import INDEX, MANIFEST, RUN
from pipeline.console import Cost, cost_of
from pipeline.params import Params
from pipeline.pictures import Painter, read_photo
from pipeline.project import Project
from pipeline.tables import UNTRAINED, sizes_text, statistics_text, teacher_of
from stages.embed.stores import weights_of
from stages.evaluate.pictures import read_pictures
from stages.evaluate.predict import measured_card, student_folder
from stages.evaluate.scores import Evaluation, read_confusion, read_scores
from stages.prepare.manifest import Manifest
from stages.prepare.stage import findings, summarise
from stages.student.config import ONCE
from stages.student.saved import read_card
from stages.train.step import LOSSES, PARTS
from stages.train.workspace import INCIDENTAL, differences
from store.atomic import write_text
from store.errors import ConfigError, DataError, SSRError, StoreIncompleteError, StoreMissingError
from store.files import Url, join
from store.fingerprint import sha256_of_file
from store.index import Index
from store.read import FeatureReader
from store.summary import inspect

REPORT: Final = "report.html"
"""Name of the file in a run's folder."""

PICTURES: Final = 2
"""Images of a domain that are shown beside their features."""

COMPARED_PICTURES: Final = 3
LARGEST_PX: Final = (480, 960)
MOST_POINTS: Final = 400  # of a line; a page is no place for 40,000 rows
ORIGIN, FAR_ENDS = (64, 230), (610, 12)  # of the horizontal and the vertical axis, in the SVG
TICKS: Final = 6


@dataclass(frozen=True)
class Part:
    """One part of the page, or the line that says why it is not there and what to do."""

    content: Any
    missing: str = ""

    @classmethod
    def of(cls, read: Callable[[], Any]) -> "Part":
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
    compare: Sequence[Path],
) -> Path:
    """Write `<run>/report.html` from whatever there is; return the file.

    The params file and the overrides are quoted. Runs to compare it with come first, in their
    order; this one is the last of them unless it is named among them.

    Raises:
        DataError: There is nothing to report: no such run, or neither a manifest nor a run.
    """
    for folder in (*compare, *(() if run == RUN else (run,))):
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder; give one that `ssr train` wrote")
    if not run.is_dir() and not MANIFEST.is_file():
        raise DataError(
            f"nothing to report yet: there is neither {MANIFEST} nor {run}; run `dvc repro`, "
            "or at least `ssr prepare`"
        )
    of_run = _Run(params, run)
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": decimal, "sizes": sizes_text, "statistics": statistics_text}
    parts = ("data", "stores", "student", "curves", "results", "costs")
    text = environment.get_template("page.html.jinja").render(
        {part: Part.of(getattr(of_run, part)) for part in parts},
        chart_of=chart_of,
        losses=(*LOSSES, *(f"{loss}_{part}" for part in PARTS for loss in LOSSES)),
        comparison=Part.of(lambda: of_run.comparison(compare)) if compare else None,
        title=of_run.title(),
        warnings=of_run.warnings(),
        untrained_teacher=UNTRAINED,
        overrides=overrides,
        params=params_path.read_text(),
        timedelta=timedelta,
    )
    write_text(run / REPORT, text)
    return run / REPORT


@dataclass(frozen=True)
class _Run:
    """The parts of the page; each method raises what keeps its part away."""

    params: Params
    run: Path

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.read(MANIFEST)

    def data(self) -> dict[str, Any]:
        classes = self.manifest.classes
        return {
            "splits": summarise(self.manifest),
            "classes": list(zip(classes.names, classes.palette, strict=True)),
            "findings": findings(self.manifest),
            "skipped": self.manifest.skipped,
            "sha256": sha256_of_file(MANIFEST),
        }

    def stores(self) -> dict[str, Part]:
        index, location = Index.read(INDEX), self.params.store.location
        if not index.stores:
            raise StoreMissingError("no store: embed.domains is [], so nothing was embedded")

        def read(url: Url) -> dict[str, Any]:
            summary = inspect(url)
            teacher = teacher_of(summary.provenance)
            return {
                "summary": summary,
                "teacher": teacher.get("architecture"),
                "weights": weights_of(teacher),
                "trained": teacher.get("trained", False),
                "pictures": Part.of(lambda: self._feature_pictures(FeatureReader(url))),
            }

        urls = {domain: join(location, entry.path) for domain, entry in index.stores.items()}
        return {domain: Part.of(partial(read, url)) for domain, url in urls.items()}

    def _feature_pictures(self, reader: FeatureReader) -> list[tuple[str, str, list[str]]]:
        painter = Painter(reader, self.manifest.records)
        known = list(painter.records.values())
        if not known:
            raise StoreIncompleteError(
                f"{reader.header.files.url} has no image of {MANIFEST} as it is now"
            )
        pictures = []
        for record in known[:: max(1, len(known) // PICTURES)][:PICTURES]:
            photo = read_photo(record, self.params.prepare.roots[record.domain])
            levels = [painter.paint(record.image_id, level) for level in reader.header.levels]
            photo_uri = _uri(Image.fromarray(photo), "JPEG")
            level_uris = [_uri(Image.fromarray(each), "PNG") for each in levels]
            pictures.append((record.image_id, photo_uri, level_uris))
        return pictures

    def student(self) -> dict[str, Any]:
        """What is noted beside the student, and what the params ask for now."""
        card = read_card(student_folder(self.run, "student"))
        recipe = card.meta.get("recipe") or {}
        asked = self.params.train.model_dump(mode="json", exclude=INCIDENTAL)
        return {
            "card": card,
            "recipe": recipe,
            "changed": [
                f"train.{key}: {value} is asked for, {other} when it was trained"
                for key, value, other in differences(
                    asked, {"distill": None, "restyled": None} | recipe
                )
                if key not in ("init", "student.weights")  # folders of a machine
            ],
        }

    def curves(self) -> dict[str, dict[float, float]]:
        """What training logged: name -> iteration -> value."""
        names = ("curves.csv", "health.csv", "validation.csv")
        columns = {k: v for name in names for k, v in read_columns(self.run / name).items()}
        if not columns:
            raise DataError(f"{self.run}/curves.csv: there are no curves yet; run `ssr train`")
        return columns

    def results(self) -> dict[str, Any]:
        scores, plain = read_scores(self.run), ONCE.model_dump(mode="json")
        inference = scores.inference.items()

        def confusion() -> dict[str, Any]:
            classes, counts = read_confusion(self.run / "confusion.csv")
            shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            rows = zip(classes, shares.tolist(), strict=True)
            return {"classes": classes, "rows": [row for row in rows if any(row[1])]}

        return {
            "scores": scores,
            "inference": [f"{key} {value}" for key, value in inference if plain.get(key) != value],
            "confusion": Part.of(confusion),
            "pictures": Part.of(lambda: _pictures(self.run)),
        }

    def comparison(self, folders: Sequence[Path]) -> dict[str, Any]:
        """Mean IoU of several runs, and pictures of this one beside those of the one before it."""
        runs = read_runs(folders if self.run in folders else [*folders, self.run])
        if len(runs) < 2:
            raise ConfigError(f"--compare {self.run}: is this very run; name another one")
        here = next(n for n, each in enumerate(runs) if each.folder == self.run)
        this, other = runs[here], runs[here - 1 if here else 1]
        drawn, others = _pictures(self.run), _pictures(other.folder)
        common = [image_id for image_id in drawn if image_id in others]
        some = common[:: -(-len(common) // COMPARED_PICTURES) or 1]
        rows = [(image_id, *drawn[image_id], others[image_id][2]) for image_id in some]
        measured = read_columns(self.run / "validation.csv")
        branch = [measured.get(name) for name in ("enhanced", "wrong_teacher")]
        return {
            "runs": runs,
            "this": this,
            "other": other,
            "pictures": rows,
            "branch": [of[max(of)] for of in branch if of] if all(branch) else None,
        }

    def costs(self) -> list[Cost]:
        folders = dict.fromkeys(("prepare", "restyle", "embed", "label"), MANIFEST.parent)
        folders |= dict.fromkeys(("train", "evaluate"), self.run)
        found = [cost_of(stage, folder) for stage, folder in folders.items()]
        return [cost for cost in found if cost is not None]

    def title(self) -> str:
        """Name both datasets: the kind, with its style if drawn, or a user's own folder."""
        return " to ".join(
            data.folder.name
            if data.kind == "folder"
            else f"{data.kind} {data.identity.get('style', '')}".strip()
            for data in self.params.prepare.domains.values()
        )

    def warnings(self) -> list[str]:
        """Say what on the page does not belong together, or not to the parameters."""
        project, found = Project(self.params), []
        if MANIFEST.is_file():
            found.append(Part.of(lambda: project.manifest).missing)
        if INDEX.is_file():
            found.append(Part.of(project.require_current_stores).missing)
        if Part.of(lambda: measured_card(self.run, read_scores(self.run))) == Part(None):
            found.append(
                "The evaluation below is of another student than the present one: run "
                "`ssr evaluate`."
            )
        if lost := Part.of(self.lost_classes).content:
            found.append(f"The pseudo-labels lost {', '.join(lost)}: another seed may do better.")
        return list(filter(None, found))

    def lost_classes(self) -> list[str]:
        """Name the classes that the pseudo-labels had lost when training ended."""
        columns, names = read_columns(self.run / "health.csv"), self.manifest.classes.names
        last = max((max(values) for values in columns.values()), default=0)
        return [
            names[int(name.removeprefix("lost_"))]
            for name, values in columns.items()
            if name.startswith("lost_") and last in values
        ]


@dataclass(frozen=True)
class ComparedRun:
    """One run, its last evaluation, and how its training used a teacher.

    That is `none`, a kind of regulariser, or `?` where the student that was measured does not say
    or is not in the folder.
    """

    folder: Path
    teacher: str
    scores: Evaluation


def read_runs(folders: Sequence[Path]) -> tuple[ComparedRun, ...]:
    """Read the last evaluations of several runs.

    Raises:
        DataError: If a run was not evaluated, or on other images, of other classes or in another
            way than the first one.
    """
    runs, conditions = [], []
    for folder in folders:
        scores = read_scores(folder)
        data = {name: (each.content, tuple(each.iou)) for name, each in scores.by_dataset.items()}
        conditions.append((data, scores.weights, scores.inference))
        if conditions[-1] != conditions[0]:
            raise DataError(
                f"{folder}: was evaluated on other images or in another way than {folders[0]}; "
                "run `ssr evaluate` for both with the same params"
            )
        runs.append(ComparedRun(folder, _teacher(folder, scores), scores))
    return tuple(runs)


def _teacher(run: Path, scores: Evaluation) -> str:
    card = Part.of(lambda: measured_card(run, scores)).content
    recipe = {} if card is None else card.meta.get("recipe") or {}
    regularizer = recipe.get("regularizer")
    if regularizer is None:
        return "?"
    return str(regularizer.get("kind", "ssr")) if regularizer.get("on") else "none"


def read_columns(path: Path) -> dict[str, dict[float, float]]:
    """Read a CSV file of `stages.train.monitor`: name -> iteration -> finite value.

    Raises:
        DataError: A cell is not a number, or there is no column of iterations.
    """
    columns: dict[str, dict[float, float]] = {}
    try:
        for row in csv.DictReader(path.read_text().splitlines() if path.is_file() else ()):
            iteration = float(row.pop("iteration"))
            for name, cell in row.items():
                if cell and math.isfinite(value := float(cell)):
                    columns.setdefault(name, {})[iteration] = value
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: is damaged; run `ssr train` again, which rewrites it") from error
    return columns


def chart_of(columns: Mapping[str, Mapping[float, float]], names: Sequence[str]) -> dict[str, Any]:
    """Lay out those of some columns that there are as lines over a common axis.

    Returns:
        `lines`: name, (x, y) of each point in units of the SVG, and last value of each column;
        `x_ticks` and `y_ticks`: (position, text) along the bottom and the left side.
    """
    given = {name: np.array(list(columns[name].items())).T for name in names if name in columns}
    if not given:
        return {"lines": []}
    every = np.concatenate(list(given.values()), axis=1)
    low = np.minimum(every.min(axis=1), [np.inf, 0])
    high = np.where(every.max(axis=1) > low, every.max(axis=1), low + 1)
    ticks = np.linspace(low, high, TICKS, axis=1)
    places = np.linspace(ORIGIN, FAR_ENDS, TICKS, axis=1).round(1).tolist()
    texts = [f"{tick:.6g}" for tick in ticks[0]], [f"{tick:.3g}" for tick in ticks[1]]
    lines = []
    for name, points in given.items():
        some = points[:, :: -(-points.shape[1] // MOST_POINTS)]
        xy = [np.interp(some[n], ticks[n], places[n]).round(1).tolist() for n in (0, 1)]
        lines.append((name.replace("_", " "), list(zip(*xy, strict=True)), f"{points[1, -1]:.4g}"))
    x_ticks, y_ticks = (list(zip(*pair, strict=True)) for pair in zip(places, texts, strict=True))
    return {"lines": lines, "x_ticks": x_ticks, "y_ticks": y_ticks}


def _pictures(run: Path) -> dict[str, list[str]]:
    """Encode the pictures of an evaluation: image id -> image, label and prediction."""
    return {
        image_id: [_uri(image, "JPEG"), _uri(label, "PNG"), _uri(prediction, "PNG")]
        for image_id, (image, label, prediction) in read_pictures(run).items()
    }


def _uri(image: Image.Image, kind: str) -> str:
    """Encode a photo (JPEG) or flat colours (PNG) as a data URI, shrunk to fit."""
    how = Image.Resampling.BOX if kind == "JPEG" else Image.Resampling.NEAREST  # mixes no colours
    small = image.copy()
    small.thumbnail(LARGEST_PX, how, reducing_gap=None)
    small = small.quantize(256) if kind == "PNG" and small.getcolors(256) else small
    file = BytesIO()
    small.save(file, kind, quality=82, optimize=True)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
