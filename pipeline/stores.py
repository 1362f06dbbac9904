"""The stores that the params ask for: what they will be, and whether one on the disk is that."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.params import Params
from stages.embed import format1
from stages.embed.planned import PlannedStore, planned_store
from stages.embed.stage import EmbedResult, Progress, Step, run
from stages.prepare.manifest import Domain, Manifest
from store.errors import ConfigError
from store.files import Url, join


def planned(
    params: Params, manifest: Manifest, domain: Domain, *, weights: Mapping[str, Any]
) -> PlannedStore:
    """Return the store that the params ask for; see `stages.embed.planned.planned_store`."""
    return planned_store(
        params.embed,
        domain,
        manifest=manifest,
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        weights=weights,
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
    weights, load = params.embed.teacher.weights_identity(), cache(params.embed.load_encoder)
    stores = params.store.location
    memory = format1.memory_at(stores, index_path)
    for domain in params.embed.domains:
        wanted = planned(params, manifest, domain, weights=weights)
        kept = format1.kept_store(wanted, params.embed, stores, memory, load)
        if is_same(join(stores, kept.spec.relative_path), url):
            return domain
    raise ConfigError(
        f"{url}: is no store that the params ask for, so `ssr embed` cannot mend it; put back "
        "the params that it was made with"
    )


def demand_provenance(
    params: Params, found: Mapping[str, Any], index_path: Path, *, where: object
) -> None:
    """Refuse features of another teacher or preprocessing than section `embed` names.

    Raises:
        StoreMismatchError: As `stages.embed.format1.require_provenance`.
    """
    memory = format1.memory_at(params.store.location, index_path)
    format1.require_provenance(params.embed, found, memory, where=where)
