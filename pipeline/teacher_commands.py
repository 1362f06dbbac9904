"""The command `ssr probe`: whether a teacher's features survive the change of domain."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.files import INDEX, MANIFEST, PARAMS
from pipeline.options import Overrides, ParamsFile


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
    from pipeline.console import progress
    from pipeline.current import current_manifest
    from pipeline.params import load_params
    from pipeline.probe import run_probe
    from pipeline.tables import print_probe
    from store.atomic import write_bytes
    from store.fingerprint import canonical_json

    config = load_params(params, overrides)
    with progress("probe", "images") as report:
        found = run_probe(
            config,
            current_manifest(config, MANIFEST),
            index_path=INDEX,
            images=images,
            student=student,
            progress=report,
        )
    print_probe(found)
    if json is not None:
        write_bytes(json, canonical_json(found.as_json()))
