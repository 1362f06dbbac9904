"""Commands of `ssr` about what came out: scores, the report, and what features are worth."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.options import (
    COMPARISON,
    INDEX,
    MANIFEST,
    PARAMS,
    RUN,
    Overrides,
    ParamsFile,
    RunFolder,
)
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


def probe(
    student: Annotated[
        Path | None,
        typer.Option(help="A student or run folder whose own features are probed too."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1, max=1_000_000, help="Most images of each split, evenly spread over it."
        ),
    ] = 60,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write the scores into this file.")
    ] = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Ask whether features mean the same in both domains: a linear classifier of stored tokens.

    It learns from labels of the source and is scored on val images of both domains, whose features
    must be in the stores (embed.splits). What a teacher is worth is what it keeps on the target.

    Example: ssr probe --student runs --json probe.json
    """
    from pipeline.checks import current_manifest
    from pipeline.console import progress
    from pipeline.params import load_params
    from pipeline.tables import print_probe
    from stages.evaluate.probe import run
    from store.atomic import write_bytes
    from store.fingerprint import canonical_json
    from store.index import Index

    config = load_params(params, overrides)
    with progress("probe", "images") as report:
        found = run(
            current_manifest(config, MANIFEST),
            roots=config.prepare.roots,
            stores=config.store.location,
            index=Index.read(INDEX),
            images=images,
            student=student,
            progress=report,
        )
    print_probe(found)
    if json is not None:
        write_bytes(json, canonical_json(found.as_json()))
