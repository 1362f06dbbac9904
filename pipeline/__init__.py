"""The `ssr` command: options that several subcommands have, and the files that they default to."""

from pathlib import Path
from typing import Annotated

import typer

# `dvc.yaml` names the same paths.
PARAMS = Path("params.yaml")
MANIFEST = Path("data/manifest.parquet")
SCAN_CACHE = Path("data/scan-cache.parquet")
EVALUATE_CACHE = Path("data/scan-cache-evaluate")
INDEX = Path("data/index.json")
START = Path("data/start.json")
RUN = Path("runs")

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", "-S", metavar="KEY=VALUE", help="Change a value, e.g. train.seed=1."),
]
RunFolder = Annotated[Path, typer.Option("--out", help="Folder of this run's results.")]


def explain(error: Exception) -> str | None:
    """Say in a line what the user can correct; None for an error of the program."""
    from store.errors import SSRError, is_out_of_memory

    if isinstance(error, SSRError):
        return str(error)
    if isinstance(error, OSError):  # a full disk, a missing permission, a file in a folder's place
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; check the path, permissions and disk space"
    if is_out_of_memory(error):
        what = str(error).partition("\n")[0]
        return (
            f"out of memory ({what}): close other programs, or take less at a time: "
            "train.micro_batch_size, train.activation_checkpointing, train.workers, "
            "embed.batch_tiles, evaluate.window_px"
        )
    return None


StoreUrl = Annotated[
    str,
    typer.Argument(
        help="A store, e.g. data/features/source/1a2b3c4d.zarr or s3://bucket/...",
        autocompletion=lambda: sorted(map(str, Path().glob("data/features/*/*.zarr"))),
    ),
]
