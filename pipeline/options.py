"""Options that several commands of `ssr` have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline import completion

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        "-S",
        metavar="KEY=VALUE",
        help="Change a value, e.g. train.seed=1.",
        autocompletion=completion.of(completion.keys),
    ),
]
RunFolder = Annotated[Path, typer.Option("--out", help="Folder of this run's results.")]


class WeightsName(StrEnum):
    """Of a run's two networks."""

    STUDENT = "student"
    EMA = "ema"


StoreUrl = Annotated[
    str,
    typer.Argument(
        help="A store, e.g. data/features/source/1a2b3c4d.zarr or s3://bucket/...",
        autocompletion=completion.of(completion.stores),
    ),
]
