"""Commands of `ssr` about one feature store: what it holds, whether it is sound, other codecs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import PARAMS, Overrides, ParamsFile, StoreUrl

if TYPE_CHECKING:
    from pipeline.project import Project
    from store.files import Url


def inspect(
    store: StoreUrl,
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
    from pipeline.console import console
    from pipeline.tables import print_store
    from store.errors import ConfigError
    from store.files import parse_url
    from store.summary import inspect as summarise

    if image is not None and png is None:
        raise ConfigError("--image needs --png FILE, where the picture goes")
    place = parse_url(store)
    print_store(summarise(place))
    if png is not None:
        from pipeline.pictures import save_picture

        without_photo = save_picture(png, store=place, image_id=image, params_path=params)
        if without_photo is not None:
            console.print(f"without the photo: {without_photo}")


def verify(
    store: StoreUrl,
    repair: Annotated[
        bool, typer.Option("--repair", help="Embed damaged shards again, and only those.")
    ] = False,
    online: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            metavar="CROPS",
            help="Instead: run the teacher on crops of training, compare.",
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

    from rich.filesize import decimal

    from pipeline.console import console, print_table, progress
    from pipeline.project import Project
    from pipeline.tables import print_first
    from store.atomic import write_bytes
    from store.errors import ConfigError, StoreError, StoreUnreadableError
    from store.files import parse_url
    from store.fingerprint import canonical_json
    from store.verify import verify as find_damage

    place = parse_url(store)
    if online is not None:
        if repair:
            raise ConfigError("--repair and --online are two different things; give one of them")
        _verify_online(Project.load(params, overrides), place, online, json)
        return
    with progress("verify", "shards") as report:
        if repair:
            found = Project.load(params, overrides).repair(place, report)
        else:
            found = find_damage(place, progress=lambda done, todo: report(done, todo, store))
    if json is not None:
        kinds = {"damage": found.damage, "unread": found.unread}
        lists = {kind: [asdict(one) for one in files] for kind, files in kinds.items()}
        write_bytes(json, canonical_json({"store": store, **lists}))
    for kind, faults in (("damaged", found.damage), ("that could not be read", found.unread)):
        if faults:
            rows = [(fault.file, str(len(fault.images)), fault.what) for fault in faults]
            title = f"{found.url}: {len(faults)} files {kind}"
            print_table(title, ("file", "images", "what is wrong"), rows)
    print_first(list(dict.fromkeys(image for one in found.damage for image in one.images)))
    suffering = {image for one in (found.damage or found.unread) for image in one.images}
    about = f"with features of {len(suffering)} images"
    if found.damage:
        unread = f"; {len(found.unread)} more could not be read" if found.unread else ""
        unread += "" if found.shards else "; shards are checked once the metadata is repaired"
        raise StoreError(
            f"{store}: {len(found.damage)} files are damaged or missing, {about}; "
            f"`ssr verify {store} --repair` repairs just those{unread}"
        )
    if found.unread:
        raise StoreUnreadableError(
            f"{store}: {len(found.unread)} files could not be read, {about}: they may be sound and "
            "were left alone; run it again once they can be read"
        )
    read = f"{found.shards} shards, {decimal(found.size_bytes)}"
    console.print(f"{store}: {read}, every file is what was written")


def _verify_online(project: "Project", store: "Url", crops: int, json: Path | None) -> None:
    """Show how features of a store agree with those of the teacher in the loop."""
    from dataclasses import asdict

    from pipeline.console import console, print_table, progress
    from pipeline.online import compare_online
    from pipeline.tables import UNTRAINED
    from store.atomic import write_bytes
    from store.fingerprint import canonical_json

    with progress("verify", "crops") as report:
        found = compare_online(project, store=store, crops=crops, progress=report)
    print_table(
        f"{store}: cached against online",
        ("", "crops", "cosine", "5th percentile", "relative error"),
        [
            (
                f"{row.kind} {row.level}",
                str(row.crops),
                *(f"{cosine:.5f}" for cosine in (row.cosine, row.cosine_low)),
                f"{row.relative_error:.4f}",
            )
            for row in found
        ],
    )
    console.print(
        "online is the teacher on: the crop alone; the mirrored crop, against mirrored features "
        "(flip) and those of mirrored images (stored flip)"
    )
    trained = project.params.embed.teacher.trained
    if not trained:
        console.print(UNTRAINED)
    if json is not None:
        rows = [asdict(row) for row in found]
        about = {"store": str(store), "trained": trained, "rows": rows}
        write_bytes(json, canonical_json(about))


def convert(
    store: StoreUrl,
    codec: Annotated[str, typer.Option(help="int8 or int8-zstd.")],
) -> None:
    """Write the store of a smaller codec beside a float16 store, without SAM.

    Example: ssr convert data/features/source/1a2b3c4d.zarr --codec int8-zstd
    """
    from rich.filesize import decimal

    from pipeline.console import console, progress
    from store.convert import convert as run
    from store.files import join, parse_url, stores_of
    from store.summary import inspect as summarise

    place = parse_url(store)
    with progress("convert", "images") as report:
        entry = run(place, codec, progress=lambda done, todo: report(done, todo, codec))
    new = join(stores_of(place), entry.path)
    before, after = (
        sum(level.size_bytes for level in summarise(url).levels.values()) for url in (place, new)
    )
    console.print(f"{new}: {decimal(after)}, {after / before:.0%} of {decimal(before)} in float16")
    console.print(
        f"when the stores of all domains are converted: set store.codec: {codec} and run "
        "`ssr embed`, which then runs no SAM"
    )
