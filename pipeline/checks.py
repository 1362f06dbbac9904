"""Requirements on manifest and stores: they are what params.yaml asks for."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.params import Params
from stages.embed.stage import DomainResult, Progress, Step, run
from stages.embed.stores import PlannedStore, kept_store, planned_store, require_provenance
from stages.label import stage as label_stage
from stages.prepare.manifest import Domain, Manifest
from stages.prepare.restyled import Restyled
from stages.restyle import stage as restyle_stage
from store.errors import ConfigError, DataError
from store.files import Url, join
from store.index import Index, labels_beside
from store.lease import WHOLE, Part


def current_manifest(params: Params, path: Path) -> Manifest:
    """Read the manifest; refuse one of other datasets than section `prepare` names.

    Where their folders lie does not matter.

    Raises:
        DataError: If there is no manifest, or it is of other domains or datasets.
    """
    manifest = Manifest.read(path)
    found, named = {record.domain for record in manifest.records}, set(params.prepare.domains)
    if found != named:
        raise DataError(
            f"{path}: lists {' and '.join(sorted(found))} images, but section prepare names "
            f"{' and '.join(sorted(named))}; run `ssr prepare`"
        )
    for domain, source in params.prepare.domains.items():
        unset = {"labelled": 0}  # which a manifest notes where it is set
        listed, wanted = unset | dict(manifest.sources.get(domain, {})), unset | source.identity
        changed = [key for key in wanted if key in listed and listed[key] != wanted[key]]
        if changed:
            raise DataError(
                f"{path}: was made with another prepare.{domain}.{changed[0]}; run `ssr prepare`, "
                "or put the old value back"
            )
    return manifest


def manifest_to_embed(params: Params, path: Path) -> Manifest:
    """Read the manifest as `current_manifest`, and the restyled images if they are embedded.

    Raises:
        DataError: As there; or the restyled images beside it are missing, or of other settings.
    """
    manifest, restyled = current_manifest(params, path), path.with_name("restyled.parquet")
    if "restyled" not in params.embed.domains or params.restyle is None:
        return manifest
    restyle_stage.require_current_restyled(params.restyle, manifest_path=path, path=restyled)
    return Restyled.read(restyled, of=path).beside(manifest)


def require_current_stores(params: Params, index_path: Path) -> None:
    """Refuse to train from features of another teacher than section `embed` names.

    Where the teacher's weight file is absent, as on a machine that only trains, the stores are
    trusted to be of that file.

    Raises:
        StoreError: If there is no index, or it names stores of another teacher or preprocessing.
    """
    if params.read_domains:
        for domain, entry in Index.read(index_path).stores.items():
            where = f"{index_path}: the {domain} store"
            projection = params.store.projection
            require_provenance(params.embed, projection, entry.provenance, where=where)


def require_current_labels(params: Params, manifest_path: Path, index_path: Path) -> None:
    """Refuse to train with labels of other features, images or parameters, if with any.

    Raises:
        StoreError: If there are none, or they were made from others.
    """
    if params.wanted_label is not None:
        label_stage.require_current_labels(
            params.wanted_label, manifest_path=manifest_path, index_path=index_path
        )


def require_current_restyled(params: Params, manifest_path: Path, restyled_path: Path) -> None:
    """Refuse to train with restyled images of other images or settings, if with any.

    Raises:
        DataError: If there are none, or they were made from others.
    """
    if params.reads_restyled and params.restyle is not None:
        restyle_stage.require_current_restyled(
            params.restyle, manifest_path=manifest_path, path=restyled_path
        )


def run_restyle(
    params: Params, *, manifest_path: Path, out: Path, progress: Progress, part: Part = WHOLE
) -> restyle_stage.RestyleResult:
    """Restyle the source as the params say; see `stages.restyle.stage.run`."""
    return restyle_stage.run(
        params.restyle,
        manifest_path=manifest_path,
        roots=params.prepare.roots,
        out=out,
        progress=progress,
        part=part,
    )


def is_labels(params: Params, url: Url, index_path: Path) -> bool:
    """Tell whether a store is that of the labels which `ssr label` keeps."""
    entry = label_stage.kept_labels(labels_beside(index_path))
    if entry is None or params.wanted_label is None:
        return False
    return is_same(join(params.store.location, entry.path), url)


def run_label(
    params: Params, *, manifest_path: Path, index_path: Path, progress: Progress
) -> label_stage.LabelResult:
    """Label the target as the params say; see `stages.label.stage.run`."""
    return label_stage.run(
        params.wanted_label,
        manifest_path=manifest_path,
        roots=params.prepare.roots,
        stores=params.store.location,
        index_path=index_path,
        shard_images=params.store.shard_images,
        progress=progress,
    )


def is_prefixes(params: Params, url: Url) -> bool:
    """Tell whether a store is that of the prefixes which training asks for."""
    if not params.train.reads_prefixes:
        return False
    from stages.train.prefix import prefix_spec  # torch

    return is_same(join(params.store.location, prefix_spec(params.train).relative_path), url)


def run_prefixes(
    params: Params, manifest: Manifest, *, progress: Progress, step: Step = "all"
) -> int | None:
    """Store the prefixes that training asks for.

    Returns:
        How many views were stored now; None if training asks for none.

    Raises:
        StoreError: Some are missing at the step `finalise`.
    """
    if not params.train.reads_prefixes:
        return None
    from stages.train.prefix import open_prefixes, store_prefixes  # torch

    if step == "finalise":
        open_prefixes(params.train, params.store.location, manifest)
        return 0
    return store_prefixes(
        params.train,
        manifest=manifest,
        roots=params.prepare.roots,
        stores=params.store.location,
        progress=progress,
        part=WHOLE if isinstance(step, str) else step,
        list_only=step == "init",
    )


def planned(
    params: Params, manifest: Manifest, domain: Domain, *, weights: Mapping[str, Any]
) -> PlannedStore:
    """Return the store that the params ask for; see `stages.embed.stores.planned_store`."""
    return planned_store(
        params.embed,
        domain,
        manifest=manifest,
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        weights=weights,
        projection=params.store.projection,
    )


def require_planned(params: Params, manifest: Manifest, url: Url) -> Domain:
    """Return the domain of a store; refuse one that `ssr embed` would not write to.

    Raises:
        ConfigError: If it is another one.
        CheckpointError: If the teacher's weights are missing or damaged.
    """
    weights, load = params.embed.teacher.weights_identity(), cache(params.embed.load_encoder)
    stores = params.store.location
    for domain in params.embed.domains:
        wanted = planned(params, manifest, domain, weights=weights)
        kept = kept_store(wanted, params.embed, stores, load)
        if is_same(join(stores, kept.spec.relative_path), url):
            return domain
    raise ConfigError(
        f"{url}: is not a store that the params ask for, so `ssr embed` cannot repair it; put back "
        "the params that it was made with"
    )


def is_same(one: Url, other: Url) -> bool:
    """Tell whether two urls are of the same store."""
    if isinstance(one, Path) and isinstance(other, Path):
        return one.resolve() == other.resolve()
    return str(one).rstrip("/") == str(other).rstrip("/")


def run_embed(
    params: Params, manifest: Manifest, *, index_path: Path, progress: Progress, step: Step
) -> dict[Domain, DomainResult]:
    """Run stage one as the params say; see `stages.embed.stage.run`."""
    return run(
        params.embed,
        manifest=manifest,
        roots={**params.prepare.roots, "restyled": index_path.with_name("restyled")},
        store_url=params.store.location,
        shard_images=params.store.shard_images,
        codec=params.store.codec,
        index_path=index_path,
        progress=progress,
        step=step,
        projection=params.store.projection,
    )
