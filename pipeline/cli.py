"""The `ssr` command: one subcommand per stage. Everything heavy is imported when it is used."""

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.files import INDEX, MANIFEST, PARAMS, RUN, SCAN_CACHE

app = typer.Typer(
    name="ssr",
    help="Segmentation that adapts to a new domain: embed images with SAM once, train from the "
    "store. Stages: prepare, embed, train, evaluate; `dvc repro` runs them all.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", "-S", metavar="KEY=VALUE", help="Change a value, e.g. train.seed=1."),
]
RunFolder = Annotated[Path, typer.Option("--out", help="Folder of this run's results.")]


def main() -> None:
    """Run the command line; a mistake that the user can mend is one line and exit code 2."""
    from store.errors import SSRError

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        app()
    except SSRError as error:
        _give_up(str(error))
    except OSError as error:  # a full disk, a missing permission, a file in a folder's place
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        _give_up(f"{what}; check the path, its permissions and the room on the disk")


def _give_up(message: str) -> NoReturn:
    print(f"ssr: {message}", file=sys.stderr)  # noqa: T201 - the shell's own error line
    sys.exit(2)


@app.command()
def init(
    preset: Annotated[
        str, typer.Option(help="drawn, camvid-day-to-dusk, gta5-to-cityscapes or folders.")
    ],
    source: Annotated[str | None, typer.Option(help="Folder of the labelled dataset.")] = None,
    target: Annotated[str | None, typer.Option(help="Folder of the unlabelled dataset.")] = None,
    params: ParamsFile = PARAMS,
    force: Annotated[bool, typer.Option("--force", help="Replace an edited params file.")] = False,
) -> None:
    """Write params.yaml from a preset; an edited file is kept unless --force is given.

    Example: ssr init --preset gta5-to-cityscapes --source /data/gta5 --target /data/cityscapes
    """
    from pipeline.console import console
    from pipeline.presets import write_preset

    write_preset(preset, params, roots={"source": source, "target": target}, overwrite=force)
    console.print(f"{params}: preset {preset}. Next: `dvc repro`, or `ssr prepare`.")


@app.command()
def prepare(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """List and check the images of both domains; write the manifest.

    Example: ssr prepare -S prepare.source.root=/data/gta5
    """
    from pipeline.console import progress
    from pipeline.params import load_params
    from pipeline.tables import print_manifest
    from stages.prepare import stage

    config = load_params(params, overrides)
    with progress("prepare", "images") as report:
        result = stage.run(
            config.prepare,
            at_least_px=config.train.crop_px,
            out=MANIFEST,
            cache=SCAN_CACHE,
            progress=report,
        )
    print_manifest(result)


@app.command()
def embed(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Run SAM once over the images and store its features; goes on where it stopped.

    Example: ssr embed -S embed.architecture=vit_b -S embed.weights=sam_vit_b_01ec64.pth
    """
    from pipeline.console import console, progress
    from pipeline.params import load_params
    from pipeline.plan import current_manifest
    from stages.embed import stage
    from store.url import parse_url

    config = load_params(params, overrides)
    manifest = current_manifest(config, MANIFEST)
    with progress("embed", "images") as report:
        result = stage.run(
            config.embed,
            manifest=manifest,
            roots=config.prepare.roots,
            store_url=parse_url(config.store.url),
            shard_images=config.store.shard_images,
            codec=config.store.codec,
            index_path=INDEX,
            progress=report,
        )
    for domain, done in result.domains.items():
        speed = f" at {done.images_per_second:.1f} images/s" if done.embedded else ""
        console.print(
            f"{domain}: {done.images} images in {done.path}, {done.embedded} embedded now{speed}"
        )


@app.command()
def train(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    out: RunFolder = RUN,
) -> None:
    """Train the student from the stores; an interrupted run resumes, SAM is never loaded.

    Example: ssr train -S train.regularizer.on=[] --out runs/daformer
    """
    from pipeline.console import console, progress
    from pipeline.params import load_params
    from pipeline.plan import current_manifest, demand_current_stores
    from stages.train import stage
    from store.url import parse_url

    config = load_params(params, overrides)
    current_manifest(config, MANIFEST)  # read again by the stage; here it is only checked
    demand_current_stores(config, INDEX)
    with progress("train", "steps") as report:
        result = stage.run(
            config.train,
            manifest_path=MANIFEST,
            roots=config.prepare.roots,
            store_url=parse_url(config.store.url),
            index_path=INDEX,
            out=out,
            progress=report,
        )
    if result.fit.resumed_from is not None:
        console.print(f"resumed after {result.fit.resumed_from} of {config.train.iterations} steps")
    if result.teacher_trained is False:
        console.print("UNTRAINED TEACHER: its weights are random; expect no gain from SSR")
    console.print(f"student in {result.student}, {result.fit.seconds:.0f} s")


@app.command()
def evaluate(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    out: RunFolder = RUN,
) -> None:
    """Measure the trained student on the target's labelled split; draw pictures.

    Example: ssr evaluate --out runs/daformer
    """
    from pipeline.console import progress
    from pipeline.params import load_params
    from pipeline.plan import current_manifest
    from pipeline.tables import print_metrics
    from stages.evaluate import stage

    config = load_params(params, overrides)
    manifest = current_manifest(config, MANIFEST)
    with progress("evaluate", "images") as report:
        stage.run(
            config.evaluate,
            manifest=manifest,
            roots=config.prepare.roots,
            student=out / "student",
            out=out,
            progress=report,
        )
    print_metrics(out)


@app.command()
def metrics(out: RunFolder = RUN) -> None:
    """Show the last evaluation: mean IoU, IoU per class, where the pictures are.

    Example: ssr metrics --out runs/daformer
    """
    from pipeline.tables import print_metrics

    print_metrics(out)


@app.command()
def inspect(
    store: Annotated[str, typer.Argument(help="A store, e.g. data/features/source/1a2b3c4d.zarr.")],
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Read all features for the statistics, by dask.")
    ] = False,
) -> None:
    """Say what a feature store holds, from which teacher, and whether it is complete.

    Example: ssr inspect data/features/source/1a2b3c4d.zarr
    """
    from pipeline.tables import print_store
    from store.summary import inspect as summarise
    from store.url import parse_url

    print_store(summarise(parse_url(store), recompute=recompute))
