"""Whether every file of a store is what its ledger vouches for, and mending those that are not."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.params import Params
from pipeline.stores import demand_planned
from stages.embed import stage
from stages.prepare.manifest import Manifest
from store import verify
from store.errors import StoreError
from store.url import Url
from store.verify import Damage

Progress = Callable[[int, int, str], None]


def find_faults(url: Url, progress: Progress) -> tuple[Damage, ...]:
    """Read a whole store and compare it with what its ledger says.

    Args:
        url: The store.
        progress: Called after each shard.

    Raises:
        StoreMissingError: If there is no store.
    """
    name = str(url).rstrip("/").rpartition("/")[2]
    report = verify.verify(url, progress=lambda done, todo: progress(done, todo, name))
    return report.damage


def repair(
    params: Params, manifest: Manifest, url: Url, *, index_path: Path, progress: Progress
) -> tuple[Damage, ...]:
    """Embed faulty shards again, and nothing else; damaged metadata is mended on the way.

    Args:
        params: All sections; those that the store was made with.
        manifest: The images.
        url: The store.
        index_path: The index.
        progress: Called after each shard that is looked at and each image that is embedded.

    Returns:
        Faults that are left: none, unless the disk goes on to damage what is written.

    Raises:
        ConfigError: If the store is not one that the params ask for.
        StoreError: If somebody writes to it, or it cannot be written.
        SSRError: As `stages.embed.stage.run`.
    """
    demand_planned(params, manifest, url, index_path)
    faults = find_faults(url, progress)
    if not faults:
        return ()
    verify.withdraw(url, faults)
    stage.run(
        params.embed,
        manifest=manifest,
        roots=params.prepare.roots,
        store_url=params.store.location,
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        index_path=index_path,
        progress=progress,
    )
    return find_faults(url, progress)


def demand_sound(url: Url, faults: Sequence[Damage]) -> None:
    """Refuse a store with faults.

    Raises:
        StoreError: If there are any.
    """
    if faults:
        images = {image_id for fault in faults for image_id in fault.images}
        raise StoreError(
            f"{url}: {len(faults)} files are damaged or missing, with features of {len(images)} "
            "images; `ssr verify --repair` mends just those"
        )
