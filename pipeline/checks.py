"""Requirements on the manifest and the stores: they are what params.yaml asks for."""

from pathlib import Path

from pipeline.params import Params
from pipeline.stores import demand_provenance
from stages.prepare.manifest import Manifest
from store.errors import DataError
from store.index import Index


def current_manifest(params: Params, path: Path) -> Manifest:
    """Read the manifest; refuse it as `require_current_manifest` does.

    Raises:
        DataError: If there is no manifest, or it is of other domains or datasets.
    """
    manifest = Manifest.read(path)
    require_current_manifest(params, manifest, path)
    return manifest


def require_current_manifest(params: Params, manifest: Manifest, path: Path) -> None:
    """Refuse a manifest of other datasets than section `prepare` names.

    Where their folders lie does not matter.

    Raises:
        DataError: If it is of other domains or datasets.
    """
    found, named = {record.domain for record in manifest.records}, set(params.prepare.domains)
    if found != named:
        raise DataError(
            f"{path}: lists {' and '.join(sorted(found))} images, but section prepare names "
            f"{' and '.join(sorted(named))}; run `ssr prepare`"
        )
    for domain, source in params.prepare.domains.items():
        listed, wanted = manifest.sources.get(domain, {}), source.identity
        changed = [key for key in wanted if key in listed and listed[key] != wanted[key]]
        if changed:
            raise DataError(
                f"{path}: was made with another prepare.{domain}.{changed[0]}; run `ssr prepare`, "
                "or put the old value back"
            )


def require_current_stores(params: Params, index_path: Path) -> None:
    """Refuse to train from features of another teacher than section `embed` names.

    The teacher is not loaded. Where its weight file is absent, as on a machine that only trains,
    the stores are trusted to be of that file.

    Raises:
        StoreError: If there is no index, or it names stores of another teacher or preprocessing.
    """
    if not params.train.regularizer.on:
        return
    for domain, entry in Index.read(index_path).stores.items():
        where = f"{index_path}: the {domain} store"
        demand_provenance(params, entry.provenance, index_path, where=where)
