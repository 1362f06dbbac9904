"""`ssr report`: what was run, on what, and what came out, as one HTML file that needs no network.

Every part stands alone: what is not made yet leaves a line that says what makes it.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pipeline.console import Report
from pipeline.files import RUN
from pipeline.params import Params
from pipeline.report.chart import HEIGHT, LEFT, RIGHT, WIDTH
from pipeline.report.page import collect
from pipeline.tables import UNTRAINED
from store.atomic import write_text
from store.errors import DataError

REPORT = "report.html"
"""Name of the file in a run's folder."""


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
    """Write `<run>/report.html`.

    Args:
        params: All sections.
        params_path: Where they were read, to be quoted.
        overrides: What was asked for beside it, to be quoted, too.
        run: Folder of the run.
        manifest: The manifest file.
        index: The index of features.
        progress: Told (done, in all, what).

    Returns:
        The file.

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
    page = collect(
        params,
        params_path=params_path,
        overrides=overrides,
        run=run,
        manifest=manifest,
        index=index,
        progress=progress,
    )
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
