"""All that the page shows, collected part by part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.console import Report
from pipeline.files import RUN
from pipeline.params import Params
from pipeline.report.chart import Chart
from pipeline.report.data import DataSummary, summarise_data
from pipeline.report.features import Features, StorePart
from pipeline.report.provenance import StudentPart, at_odds, read_student
from pipeline.report.results import Results, read_results
from pipeline.report.section import Section, section
from pipeline.report.spent import Spent, read_spent
from pipeline.report.training import charts
from stages.prepare.config import Domain
from stages.prepare.manifest import Manifest
from store.errors import DataError
from store.index import Index

PARTS = ("data", "features", "training", "results", "page")


@dataclass(frozen=True)
class Page:
    """The page.

    Attributes:
        title: Which domains.
        params: Text of the params file.
        overrides: What was asked for beside it.
        warnings: What does not belong together.
        data: The datasets.
        stores: The feature store of each domain.
        student: What is noted beside the student.
        training: Its curves.
        results: The last evaluation.
        untrained: Whether the student, or where there is none a store, is of a teacher of random
            weights.
        spent: Time and memory per stage.
    """

    title: str
    params: str
    overrides: Sequence[str]
    warnings: Sequence[str]
    data: Section[DataSummary]
    stores: Section[dict[str, Section[StorePart]]]
    student: Section[StudentPart]
    training: Section[tuple[Chart, ...]]
    results: Section[Results]
    untrained: bool
    spent: Section[Spent]


def collect(
    params: Params,
    *,
    params_path: Path,
    overrides: Sequence[str],
    run: Path,
    manifest: Path,
    index: Path,
    progress: Report,
) -> Page:
    """Read whatever there is.

    Args:
        params: All sections.
        params_path: Where they were read, to be quoted.
        overrides: What was asked for beside it, to be quoted, too.
        run: Folder of the run.
        manifest: The manifest file.
        index: The index of features.
        progress: Told (done, in all, what).

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
    steps = iter(enumerate(PARTS, start=1))

    def tell() -> None:
        number, part = next(steps)
        progress(number, len(PARTS), part)

    tell()
    listed = section(lambda: Manifest.read(manifest))
    data = listed.then(lambda known: summarise_data(known, manifest))
    tell()
    features = listed.then(
        lambda known: Features(
            Index.read(index), params.store.location, known, params.prepare.roots
        )
    )
    stores = features.then(Features.parts)
    tell()
    student = section(lambda: read_student(run, params))
    training = section(lambda: charts(run))
    tell()
    results = section(lambda: read_results(run, listed, features))
    scores = None if results.content is None else results.content.scores
    tell()
    return Page(
        title=_title(listed.content, params.prepare.roots),
        params=params_path.read_text(),
        overrides=overrides,
        warnings=at_odds(params, run, manifest=manifest, listed=listed, index=index, scores=scores),
        data=data,
        stores=stores,
        student=student,
        training=training,
        results=results,
        untrained=_untrained(student.content, stores.content or {}),
        spent=section(lambda: read_spent(run, manifest.parent)),
    )


def _title(manifest: Manifest | None, roots: Mapping[Domain, Path]) -> str:
    """Name both datasets: the kind, with its style if drawn, or a user's own folder."""
    names = []
    for domain, keys in (manifest.sources if manifest else {}).items():
        kind, style = (str(keys.get(name, "")) for name in ("kind", "style"))
        own = kind == "folder" and domain in roots
        names.append(roots[domain].name if own else f"{kind} {style}".strip())
    return " to ".join(names)


def _untrained(student: StudentPart | None, stores: Mapping[str, Section[StorePart]]) -> bool:
    if student is not None:
        return student.teacher_trained is False
    return any(part.content is not None and not part.content.trained for part in stores.values())
