"""Commands of `ssr` about what came out: scores in the terminal, and the report."""

from pipeline.files import INDEX, MANIFEST, PARAMS, RUN
from pipeline.options import Overrides, ParamsFile, RunFolder


def metrics(out: RunFolder = RUN) -> None:
    """Show the last evaluation: mean IoU, IoU per class, where the pictures are.

    Example: ssr metrics --out runs/daformer
    """
    from pipeline.tables import print_metrics

    print_metrics(out)


def report(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    out: RunFolder = RUN,
) -> None:
    """Write the run's report.html: parameters, data, features, curves, scores, pictures, costs.

    One file that opens without a network; what is not made yet says what makes it.

    Example: ssr report --out runs/daformer
    """
    from pipeline.console import console, progress
    from pipeline.params import load_params
    from pipeline.report import write_report
    from pipeline.report.page import collect

    config = load_params(params, overrides)
    with progress("report", "parts") as show:
        page = collect(
            config,
            params_path=params,
            overrides=overrides,
            run=out,
            manifest=MANIFEST,
            index=INDEX,
            progress=show,
        )
        written = write_report(page, out)
    console.print(f"{written}: open it in a browser")
