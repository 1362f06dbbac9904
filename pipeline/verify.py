"""Whether every shard of a store is what its ledger vouches for, and mending those that are not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import Params
from pipeline.stores import demand_planned
from stages.embed import stage
from stages.prepare.manifest import Manifest
from store.errors import StoreError
from store.fingerprint import sha256_of_file
from store.grid import shard_count, shard_file, slots_of
from store.header import Header, read_header
from store.ledger import LEDGER, Ledger
from store.lock import writer_lock
from store.spec import ImageEntry

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One shard that cannot be trusted.

    Attributes:
        level: Its level.
        shard: Its number.
        problem: What is wrong.
        images: Ids of the images in it.
    """

    level: str
    shard: int
    problem: str
    images: tuple[str, ...]


def find_faults(path: Path, progress: Progress) -> tuple[Fault, ...]:
    """Compare every shard with its ledger entry: existence, images, size and digest.

    Args:
        path: Folder of the store.
        progress: Called after each shard.

    Raises:
        StoreError: If there is no store, or its metadata is not sound.
    """
    header = read_header(path)
    shards = range(shard_count(len(header.slots), header.spec.shard_images))
    total = len(shards) * len(header.levels)
    faults = []
    for done, (level, shard) in enumerate(((v, s) for v in header.levels for s in shards), 1):
        images = _images(header, shard)
        problem = _problem(header, level, shard, images) if any(images) else None
        if problem is not None:
            ids = tuple(image.image_id for image in images if image is not None)
            faults.append(Fault(level, shard, problem, ids))
        progress(done, total, level)
    return tuple(faults)


def repair(
    params: Params, manifest: Manifest, path: Path, *, index_path: Path, progress: Progress
) -> tuple[Fault, ...]:
    """Embed faulty shards again, and nothing else; damaged metadata is mended on the way.

    Args:
        params: All sections; those that the store was made with.
        manifest: The images.
        path: Folder of the store.
        index_path: The index.
        progress: Called after each shard that is looked at and each image that is embedded.

    Returns:
        Faults that are left: none, unless the disk goes on to damage what is written.

    Raises:
        ConfigError: If the store is not one that the params ask for.
        StoreError: If somebody writes to it, or it cannot be written.
        SSRError: As `stages.embed.stage.run`.
    """
    demand_planned(params, manifest, path)

    def embed() -> None:
        stage.run(
            params.embed,
            manifest=manifest,
            roots=params.prepare.roots,
            store_url=params.store.path,
            shard_images=params.store.shard_images,
            codec=params.store.codec,
            index_path=index_path,
            progress=progress,
        )

    try:
        faults = find_faults(path, progress)
    except StoreError:
        embed()  # mends metadata, keeps the shards
        faults = find_faults(path, progress)
    if not faults:
        return ()
    with writer_lock(path / LEDGER, f"the store {path}"):
        for fault in faults:
            Ledger(path).withdraw(fault.level, fault.shard)
    embed()
    return find_faults(path, progress)


def demand_sound(path: Path, faults: Sequence[Fault]) -> None:
    """Refuse a store with faults.

    Raises:
        StoreError: If there are any.
    """
    if faults:
        images = {image_id for fault in faults for image_id in fault.images}
        raise StoreError(
            f"{path}: {len(faults)} shards with {len(images)} images are damaged or missing; "
            "`ssr verify --repair` embeds just those again"
        )


def _images(header: Header, shard: int) -> tuple[ImageEntry | None, ...]:
    slots = slots_of(shard, len(header.slots), header.spec.shard_images)
    return tuple(header.slots[s].image if header.slots[s].live else None for s in slots)


def _problem(
    header: Header, level: str, shard: int, images: Sequence[ImageEntry | None]
) -> str | None:
    file, entry = header.path / shard_file(level, shard), Ledger(header.path).read(level, shard)
    if entry is None:
        return "no ledger entry" if file.exists() else "not there"
    if entry.fingerprint != header.spec.level_fingerprint(level) or not entry.holds(images):
        return "of other features or images"
    if not file.exists():
        return "file missing"
    size_bytes = file.stat().st_size
    if size_bytes != entry.bytes:
        return f"{size_bytes} bytes instead of {entry.bytes}"
    return None if sha256_of_file(file) == entry.digest else "bytes have changed"
