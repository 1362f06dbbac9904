"""The stores that the params ask for: what they will be, and whether one on the disk is that."""

from collections.abc import Mapping
from pathlib import Path

from pipeline.params import Params
from stages.embed.lazy_teacher import LazyTeacher
from stages.embed.planned import PlannedStore, planned_store, provenance
from stages.embed.stage import EmbedResult, Progress, Step, run, weights_cache
from stages.prepare.manifest import Domain, Manifest
from store.errors import ConfigError, StoreMismatchError
from store.files import Url, join


def planned(
    params: Params, manifest: Manifest, domain: Domain, *, weights_sha256: str
) -> PlannedStore:
    """Return the store that the params ask for; see `stages.embed.planned.planned_store`."""
    return planned_store(
        params.embed,
        domain,
        manifest=manifest,
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        weights_sha256=weights_sha256,
    )


def run_embed(
    params: Params, manifest: Manifest, *, index_path: Path, progress: Progress, step: Step
) -> EmbedResult:
    """Run stage one as the params say; see `stages.embed.stage.run`."""
    return run(
        params.embed,
        manifest=manifest,
        roots=params.prepare.roots,
        store_url=params.store.location,
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        index_path=index_path,
        progress=progress,
        step=step,
    )


def remembered_teacher(params: Params, index_path: Path) -> LazyTeacher:
    """Return the teacher of section `embed`, which is loaded only where its hash is not known."""
    return LazyTeacher(params.embed, weights_cache(params.store.location, index_path))


def is_same(one: Url, other: Url) -> bool:
    """Tell whether two urls are of the same store."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return str(one).rstrip("/") == str(other).rstrip("/")


def demand_planned(params: Params, manifest: Manifest, url: Url, index_path: Path) -> Domain:
    """Return the domain of a store; refuse one that `ssr embed` would not write to.

    Raises:
        ConfigError: If it is another one.
        CheckpointError: If the teacher's weights are missing or damaged.
    """
    weights = remembered_teacher(params, index_path).weights_sha256
    for domain in params.embed.domains:
        spec = planned(params, manifest, domain, weights_sha256=weights).spec
        if is_same(join(params.store.location, spec.relative_path), url):
            return domain
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
