"""Commands of `ssr` about what came out: scores in the terminal, and the report."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.files import COMPARISON, INDEX, MANIFEST, PARAMS, RUN
from pipeline.options import Overrides, ParamsFile, RunFolder
from store.errors import ConfigError


def metrics(out: RunFolder = RUN) -> None:
    """Show the last evaluation: mean IoU, IoU per class, where the pictures are.

    Example: ssr metrics --out runs/daformer
    """
    from pipeline.tables import print_metrics

    print_metrics(out)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of evaluated runs, at least two.")],
    picture: Annotated[Path, typer.Option(help="PNG file for their predictions.")] = COMPARISON,
) -> None:
    """Show evaluated runs side by side, gains against the first one, and draw their predictions.

    Example: ssr compare runs/daformer runs/ssr
    """
    from pipeline.comparison import draw_comparison, print_comparison, read_runs
    from pipeline.console import console

    if len(runs) < 2:
        raise ConfigError(f"{runs[0]} is one run: name another one to compare it with")
    if picture.suffix != ".png":
        raise ConfigError(f"{picture}: --picture is a PNG; give a name that ends in .png")
    compared = read_runs(runs)
    print_comparison(compared)
    if draw_comparison(compared, picture):
        console.print(f"image | label | predictions: {picture}")
    else:
        console.print("no picture: the runs have drawn no image in common")


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

    config = load_params(params, overrides)
    with progress("report", "parts") as show:
        written = write_report(
            config,
            params_path=params,
            overrides=overrides,
            run=out,
            manifest=MANIFEST,
            index=INDEX,
            progress=show,
        )
    console.print(f"{written}: open it in a browser")
