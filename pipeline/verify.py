"""Verification and repair of a store, as `ssr verify` does them."""

from collections.abc import Callable
from pathlib import Path

from pipeline.checks import require_planned, run_embed
from pipeline.params import Params
from stages.prepare.manifest import Manifest
from stages.prepare.pixels import read_raw
from store import verify
from store.errors import StoreError, StoreUnreadableError
from store.files import Url
from store.lease import WHOLE

Progress = Callable[[int, int, str], None]


def find_damage(url: Url, progress: Progress) -> verify.Report:
    """Read a whole store and compare it with what its ledger says.

    Args:
        url: The store.
        progress: Called after each shard.

    Raises:
        StoreMissingError: If there is no store.
    """
    name = str(url).rstrip("/").rpartition("/")[2]
    return verify.verify(url, progress=lambda done, todo: progress(done, todo, name))


def embed_damaged(
    params: Params, manifest: Manifest, url: Url, *, index_path: Path, progress: Progress
) -> verify.Report:
    """Embed damaged and missing shards of a store; damaged metadata is repaired on the way.

    Args:
        params: All sections; those that the store was made with.
        manifest: The images.
        url: The store.
        index_path: The index, which stays as it is.
        progress: Called after each shard that is looked at and each image that is embedded.

    What could not be read is left as it is: it may be sound.

    Returns:
        What is left: no damage, unless the disk goes on to damage what is written.

    Raises:
        ConfigError: If the store is not one that the params ask for.
        DataError: If an image of a damaged shard cannot be read: nothing was touched.
        StoreError: If somebody writes to it, or it cannot be written.
        SSRError: As `stages.embed.stage.run`.
    """
    domain = require_planned(params, manifest, url, index_path)
    report = find_damage(url, progress)
    if not report.damage:
        return report
    _require_readable(report, manifest, params.prepare.roots[domain])
    verify.discard(url, report.damage)
    damaged = {one.level for one in report.damage if one.level is not None}
    offered = params.embed.teacher.levels()
    levels = tuple(name for name in offered if name in {*params.embed.levels, *damaged})
    alone = params.embed.model_copy(update={"domains": (domain,), "levels": levels})
    params = params.model_copy(update={"embed": alone})
    run_embed(params, manifest, index_path=index_path, progress=progress, step=WHOLE)
    return find_damage(url, progress)


def _require_readable(report: verify.Report, manifest: Manifest, root: Path) -> None:
    """Refuse to give up a damaged shard that cannot be made anew, as some of it may be intact."""
    records = {record.image_id: record for record in manifest.records}
    for image_id in {i for one in report.damage for i in (*one.images, *one.intact)}:
        if image_id in records:
            read_raw(records[image_id], root)


def require_sound(report: verify.Report) -> None:
    """Refuse a store with damage, or of which not everything could be read.

    Raises:
        StoreUnreadableError: If nothing is known to be damaged, but something could not be read.
        StoreError: If something is damaged.
    """
    if report.damage:
        raise StoreError(
            f"{report.url}: {len(report.damage)} files are damaged or missing, with features of "
            f"{len(report.images)} images; `ssr verify {report.url} --repair` repairs just those"
            + (f"; {len(report.unread)} more could not be read" if report.unread else "")
        )
    if report.unread:
        images = {image for one in report.unread for image in one.images}
        raise StoreUnreadableError(
            f"{report.url}: {len(report.unread)} files could not be read, with features of "
            f"{len(images)} images: they may be sound and were left alone; run it again once they "
            "can be read"
        )
