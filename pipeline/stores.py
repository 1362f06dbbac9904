"""The stores that the params ask for: what they will be, and whether one on the disk is that."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.params import Params
from stages.embed.architectures import ARCHITECTURES
from stages.embed.lazy_teacher import LazyTeacher
from stages.embed.stage import provenance, weights_cache
from stages.prepare.manifest import Domain, Manifest
from store.errors import ConfigError, DataError, StoreMismatchError
from store.spec import ImageEntry, StoreSpec
from store.url import Url, join


@dataclass(frozen=True)
class PlannedStore:
    """What stage one makes of one domain: its specification, and its images in order."""

    spec: StoreSpec
    images: tuple[ImageEntry, ...]


def planned_store(
    params: Params, manifest: Manifest, domain: Domain, *, weights_sha256: str
) -> PlannedStore:
    """Return the store that `ssr embed` makes or keeps for a domain.

    Args:
        params: All sections.
        manifest: The images.
        domain: One of `embed.domains`.
        weights_sha256: Hash of the teacher's weights; any 64 digits do where only sizes matter.

    Raises:
        DataError: If the manifest has no images of the domain to embed.
    """
    images = tuple(
        ImageEntry(record.image_id, record.content, record.working_size_px)
        for record in manifest.select(domain=domain)
        if record.split in params.embed.splits
    )
    if not images:
        raise DataError(
            f"the manifest has no {' or '.join(params.embed.splits)} images of domain {domain}; "
            "change embed.domains or embed.splits, or run `ssr prepare`"
        )
    spec = StoreSpec(
        domain=domain,
        channels=ARCHITECTURES[params.embed.architecture].channels,
        grid_px=(
            max(image.working_size_px[0] for image in images),
            max(image.working_size_px[1] for image in images),
        ),
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        provenance=provenance(params.embed, weights_sha256),
    )
    return PlannedStore(spec, images)


def remembered_teacher(params: Params, index_path: Path) -> LazyTeacher:
    """Return the teacher of section `embed`, which is loaded only where its hash is not known."""
    return LazyTeacher(params.embed, weights_cache(params.store.location, index_path))


def is_same(one: Url, other: Url) -> bool:
    """Tell whether two urls are of the same store."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return str(one).rstrip("/") == str(other).rstrip("/")


def demand_planned(params: Params, manifest: Manifest, url: Url, index_path: Path) -> None:
    """Refuse a store that `ssr embed` with these params would not write to.

    Raises:
        ConfigError: If it is another one.
        CheckpointError: If the teacher's weights are missing or damaged.
    """
    weights = remembered_teacher(params, index_path).weights_sha256
    for domain in params.embed.domains:
        spec = planned_store(params, manifest, domain, weights_sha256=weights).spec
        if is_same(join(params.store.location, spec.relative_path), url):
            return
    raise ConfigError(
        f"{url}: is no store that the params ask for, so `ssr embed` cannot mend it; put back "
        "the params that it was made with"
    )


def demand_provenance(
    params: Params, found: Mapping[str, object], weights_sha256: str, *, where: object
) -> None:
    """Refuse features of another teacher or preprocessing than section `embed` names.

    Args:
        params: All sections.
        found: Provenance of the features.
        weights_sha256: Of the teacher that section `embed` names.
        where: What holds the features, for the message.

    Raises:
        StoreMismatchError: If they differ.
    """
    wanted = provenance(params.embed, weights_sha256)
    changed = [key for key, value in wanted.items() if found.get(key) != value]
    if changed:
        raise StoreMismatchError(
            f"{where} was made with another {changed[0]} than section embed of the params names; "
            "run `ssr embed`, or put the old values back"
        )
