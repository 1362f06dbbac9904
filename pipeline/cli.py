"""The `ssr` command: one subcommand per stage. Everything heavy is imported when it is used."""

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.files import INDEX, MANIFEST, PARAMS, RUN, SCAN_CACHE, START

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
StoreUrl = Annotated[str, typer.Argument(help="A store, e.g. data/features/source/1a2b3c4d.zarr.")]
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
        where = f"{error.filename}: " if error.filename else ""
        _give_up(f"{where}{error.strerror or error}; check the path, permissions and disk space")


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
    from stages.train.start import digests_of_start
    from store.atomic import update_bytes
    from store.fingerprint import canonical_json

    config = load_params(params, overrides)
    with progress("prepare", "images") as report:
        result = stage.run(
            config.prepare,
            at_least_px=config.train.crop_px,
            out=MANIFEST,
            cache=SCAN_CACHE,
            progress=report,
        )
    # DVC sees the names of weight files in the params; this file tells it when one changes.
    update_bytes(START, canonical_json(digests_of_start(config.train)))
    print_manifest(result)


@app.command()
def plan(
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few tiles here; loads torch.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Device to look up, e.g. a100; else this machine's.")
    ] = None,
) -> None:
    """Say beforehand what `ssr embed` will cost: tiles, time, disk, memory; needs no weights.

    Example: ssr plan --device a100 -S embed.architecture=vit_h -S embed.precision=bfloat16
    """
    from pipeline.devices import CPU, device_here
    from pipeline.estimate import Speed, estimate, free_bytes, table_speed
    from pipeline.params import load_params
    from pipeline.plan import current_manifest
    from pipeline.plan_table import print_plan

    config = load_params(params, overrides)
    manifest = current_manifest(config, MANIFEST)
    device = device or (CPU if config.embed.device == "cpu" else device_here())
    speed = table_speed(config.embed, device)
    if calibrate:
        from stages.embed.calibrate import tiles_per_second

        rate, device = tiles_per_second(config.embed)
        speed = Speed(rate, f"measured on {device}")
    result = estimate(config, manifest, speed=speed)
    print_plan(result, config, device=device, free_bytes=free_bytes(config.store.url))


@app.command()
def embed(params: ParamsFile = PARAMS, overrides: Overrides = []) -> None:  # noqa: B006
    """Run SAM once over the images and store its features; goes on where it stopped.

    Example: ssr embed -S embed.architecture=vit_b -S embed.weights=sam_vit_b_01ec64.pth
    """
    from pipeline.console import console, progress
    from pipeline.params import load_params
    from pipeline.plan import current_manifest
    from stages.embed import stage

    config = load_params(params, overrides)
    manifest = current_manifest(config, MANIFEST)
    with progress("embed", "images") as report:
        result = stage.run(
            config.embed,
            manifest=manifest,
            roots=config.prepare.roots,
            store_url=config.store.location,
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
    from pipeline.tables import UNTRAINED
    from stages.train import stage

    config = load_params(params, overrides)
    current_manifest(config, MANIFEST)  # read again by the stage; here it is only checked
    demand_current_stores(config, INDEX)
    with progress("train", "steps") as report:
        result = stage.run(
            config.train,
            manifest_path=MANIFEST,
            roots=config.prepare.roots,
            store_url=config.store.location,
            index_path=INDEX,
            out=out,
            progress=report,
        )
    if result.fit.resumed_from is not None:
        console.print(f"resumed after {result.fit.resumed_from} of {config.train.iterations} steps")
    if result.teacher_trained is False:
        console.print(UNTRAINED)
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
    store: StoreUrl,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Read all features for the statistics, by dask.")
    ] = False,
    png: Annotated[
        Path | None, typer.Option(help="Draw an image beside its features into this file.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Id of the image to draw; else the store's first.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Say what a feature store holds, from which teacher, and whether it is complete.

    Example: ssr inspect data/features/source/1a2b3c4d.zarr --png features.png
    """
    from pipeline.tables import print_store
    from store.errors import ConfigError
    from store.summary import inspect as summarise
    from store.url import parse_url

    if image is not None and png is None:
        raise ConfigError("--image needs --png FILE, where the picture goes")
    place = parse_url(store)
    print_store(summarise(place, recompute=recompute))
    if png is not None:
        from pipeline.console import console
        from pipeline.pictures import save_picture

        without_photo = save_picture(
            png, store=place, image_id=image, params_path=params, manifest_path=MANIFEST
        )
        if without_photo is not None:
            console.print(f"without the photo: {without_photo}")
        console.print(f"picture: {png}")


@app.command()
def verify(
    store: StoreUrl,
    repair: Annotated[
        bool, typer.Option("--repair", help="Embed damaged shards again, and only those.")
    ] = False,
    online: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="CROPS", help="Instead: run the teacher on crops of training, compare."
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option("--json", help="Write what was found into this file.")
    ] = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Read every byte of a store and name damaged shards; exit code 2 where there are any.

    Example: ssr verify data/features/source/1a2b3c4d.zarr --online 20 --json online.json
    """
    from dataclasses import asdict

    from pipeline.console import console, progress
    from pipeline.params import load_params
    from pipeline.plan import current_manifest
    from pipeline.tables import print_faults, print_online
    from pipeline.verify import demand_sound, find_faults
    from pipeline.verify import repair as mend
    from store.atomic import write_bytes
    from store.errors import ConfigError
    from store.fingerprint import canonical_json
    from store.url import parse_url

    place = parse_url(store)
    if online is not None:
        if repair:
            raise ConfigError("--repair and --online are two different things; give one of them")
        from pipeline.online import compare_online

        config = load_params(params, overrides)
        with progress("verify", "crops") as report:
            agreement = compare_online(
                config,
                current_manifest(config, MANIFEST),
                store=place,
                index_path=INDEX,
                crops=online,
                progress=report,
            )
        print_online(agreement)
        if json is not None:
            write_bytes(json, canonical_json(agreement.as_json()))
        return
    with progress("verify", "shards") as report:
        if repair:
            config = load_params(params, overrides)
            manifest = current_manifest(config, MANIFEST)
            faults = mend(config, manifest, place, index_path=INDEX, progress=report)
        else:
            faults = find_faults(place, report)
    if json is not None:
        found = {"store": str(store), "faults": [asdict(fault) for fault in faults]}
        write_bytes(json, canonical_json(found))
    if faults:
        print_faults(place, faults)
    demand_sound(place, faults)
    console.print(f"{store}: every file is what was written")
