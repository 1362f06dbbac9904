"""`ssr report`: what was run, on what, and what came out, as one HTML file that needs no network.

Every part stands alone: what is not made yet leaves a line that says what makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pipeline.console import Report
from pipeline.costs import versions
from pipeline.params import Params
from pipeline.report.chart import HEIGHT, LEFT, RIGHT, WIDTH, Chart
from pipeline.report.data import DataSummary, summarise_data
from pipeline.report.features import Features, StorePart
from pipeline.report.provenance import (
    CostRow,
    StudentPart,
    cost_rows,
    read_student,
    versions_then,
)
from pipeline.report.results import Results, read_results
from pipeline.report.section import Section, section
from pipeline.report.training import charts
from pipeline.tables import UNTRAINED
from stages.prepare.manifest import Manifest
from store.atomic import write_text
from store.errors import DataError
from store.index import Index

REPORT = "report.html"
"""Name of the file in a run's folder."""


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        title: Which domains.
        params: Text of the params file.
        data: The datasets.
        stores: The feature stores.
        student: What is noted beside the student.
        training: Its curves.
        results: The last evaluation.
        stale: Whether that evaluation was of another student than the present one.
        untrained: Whether features came from a teacher of random weights.
        costs: Time and memory per stage.
        versions: Of Python and packages.
        versions_of: When: those of the last run, or of now where none is noted.
    """

    title: str
    params: str
    data: Section[DataSummary]
    stores: Section[tuple[StorePart, ...]]
    student: Section[StudentPart]
    training: Section[tuple[Chart, ...]]
    results: Section[Results]
    stale: bool
    untrained: bool
    costs: tuple[CostRow, ...]
    versions: dict[str, str]
    versions_of: str


def write_report(
    params: Params, *, params_path: Path, run: Path, manifest: Path, index: Path, progress: Report
) -> Path:
    """Write `<run>/report.html`.

    Args:
        params: All sections.
        params_path: Where they were read, to be quoted.
        run: Folder of the run.
        manifest: The manifest file.
        index: The index of features.
        progress: Told (done, in all, what).

    Returns:
        The file.

    Raises:
        DataError: There is nothing to report: neither a manifest nor a run.
    """
    if not manifest.is_file() and not run.is_dir():
        raise DataError(
            f"nothing to report yet: there is neither {manifest} nor {run}; run `dvc repro`, "
            "or `ssr prepare` at first"
        )
    page = _collect(params, params_path, run, manifest, index, progress)
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT}
    text = environment.get_template("page.html.jinja").render(
        page=page, frame=frame, UNTRAINED=UNTRAINED
    )
    write_text(run / REPORT, text)
    return run / REPORT


def _collect(
    params: Params, params_path: Path, run: Path, manifest: Path, index: Path, progress: Report
) -> Page:
    steps = iter(range(1, 6))

    def tell(what: str) -> None:
        progress(next(steps), 5, what)

    tell("data")
    listed = section(lambda: Manifest.read(manifest))
    known = listed.content
    data = (
        Section[DataSummary](None, listed.missing)
        if known is None
        else section(lambda: summarise_data(known, manifest))
    )
    tell("features")
    features = section(lambda: _features(params, listed, index))
    stores = (
        Section[tuple[StorePart, ...]](None, features.missing)
        if features.content is None
        else section(features.content.parts)
    )
    tell("training")
    student = section(lambda: read_student(run, params))
    training = section(lambda: charts(run))
    tell("results")
    results = section(lambda: read_results(run, known, features))
    noted = versions_then(run, manifest.parent)
    tell("page")
    return Page(
        title=" to ".join(_described(keys) for keys in (known.sources.values() if known else ())),
        params=params_path.read_text(),
        data=data,
        stores=stores,
        student=student,
        training=training,
        results=results,
        stale=bool(
            results.content
            and student.content
            and results.content.weights == "student"
            and results.content.student != student.content.weights
        ),
        untrained=bool(
            (student.content and student.content.teacher_trained is False)
            or any(not part.trained for part in stores.content or ())
        ),
        costs=cost_rows(run, manifest.parent),
        versions=noted or versions(),
        versions_of="when it was run" if noted else "now",
    )


def _features(params: Params, listed: Section[Manifest], index: Path) -> Features:
    if listed.content is None:
        raise DataError(listed.missing)
    return Features(Index.read(index), params.store.location, listed.content, params.prepare.roots)


def _described(keys: Mapping[str, object]) -> str:
    """Name a dataset: its kind and, of a drawn one, its style."""
    return " ".join(str(keys[name]) for name in ("kind", "style") if name in keys)
