"""Commands of `ssr` about one feature store: what it holds, whether it is sound, other codecs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import INDEX, MANIFEST, PARAMS, RESTYLED, Overrides, ParamsFile, StoreUrl

if TYPE_CHECKING:
    from pipeline.params import Params
    from store.files import Url
    from store.verify import Report


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

    from pipeline.checks import current_manifest
    from pipeline.console import console, progress
    from pipeline.params import load_params
    from pipeline.tables import print_damage, print_online
    from store.atomic import write_bytes
    from store.errors import ConfigError, StoreError, StoreUnreadableError
    from store.files import parse_url
    from store.fingerprint import canonical_json
    from store.verify import verify as find_damage

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
                crops=online,
                progress=report,
            )
        print_online(agreement)
        if json is not None:
            write_bytes(json, canonical_json(asdict(agreement)))
        return
    with progress("verify", "shards") as report:
        if repair:
            found = _repair(load_params(params, overrides), place, report)
        else:
            found = find_damage(place, progress=lambda done, todo: report(done, todo, store))
    if json is not None:
        kinds = {"damage": found.damage, "unread": found.unread}
        lists = {kind: [asdict(one) for one in files] for kind, files in kinds.items()}
        write_bytes(json, canonical_json({"store": store, **lists}))
    if not found.sound:
        print_damage(found)
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


def _repair(params: "Params", url: "Url", progress: Callable[[int, int, str], None]) -> "Report":
    """Make damaged and missing shards again; return what is damaged then, or could not be read.

    What could not be read is left as it is: it may be sound.

    Raises:
        ConfigError: If the store is not one that the params ask for.
        DataError: If an image of a damaged shard cannot be read: nothing was touched.
        SSRError: As `stages.embed.stage.run`.
    """
    from pipeline.checks import (
        is_labels,
        is_prefixes,
        manifest_to_embed,
        require_planned,
        run_embed,
        run_label,
        run_prefixes,
    )
    from stages.prepare.pixels import read_raw
    from store import verify
    from store.lease import WHOLE
    from store.spec import upright

    manifest = manifest_to_embed(params, MANIFEST)

    def find_damage() -> "Report":
        return verify.verify(url, progress=lambda done, todo: progress(done, todo, "verify"))

    if is_labels(params, url, INDEX):
        for _ in ("metadata", "shards"):
            verify.discard(url, find_damage().damage)
            run_label(params, manifest_path=MANIFEST, index_path=INDEX, progress=progress)
        return find_damage()
    if is_prefixes(params, url):
        for _ in ("metadata", "shards"):
            verify.discard(url, find_damage().damage)
            run_prefixes(params, manifest, progress=progress)
        return find_damage()
    domain = require_planned(params, manifest, url)
    roots = {**params.prepare.roots, "restyled": RESTYLED.with_suffix("")}
    records = {record.image_id: record for record in manifest.select(domain=domain)}
    report = find_damage()
    for _ in ("metadata", "shards"):  # shards are looked at once the metadata is sound
        if not report.damage:
            break
        for image_id in {i for one in report.damage for i in one.images}:
            if image_id in records:  # else a shard that is partly intact could not be made anew
                read_raw(records[image_id], roots[domain])
        verify.discard(url, report.damage)
        damaged = {one.level for one in report.damage if one.level is not None}
        wanted = {*params.embed.levels, *map(upright, damaged)}
        levels = tuple(name for name in params.embed.teacher.levels() if name in wanted)
        flips = ("none", "horizontal") if damaged - wanted else params.embed.flips
        update = {"domains": (domain,), "levels": levels, "flips": flips}
        alone = params.model_copy(update={"embed": params.embed.model_copy(update=update)})
        run_embed(alone, manifest, index_path=INDEX, progress=progress, step=WHOLE)
        report = find_damage()
    return report


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
