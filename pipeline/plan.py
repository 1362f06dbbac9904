"""Whether what is on the disk is what params.yaml asks for."""

from pathlib import Path

from pipeline.params import Params
from pipeline.stores import demand_provenance, remembered_teacher
from stages.prepare.manifest import Manifest
from store.errors import DataError
from store.index import Index


def current_manifest(params: Params, path: Path) -> Manifest:
    """Read the manifest; refuse one of other domains than section `prepare` names.

    Raises:
        DataError: If there is no manifest, or it is of other domains.
    """
    manifest = Manifest.read(path)
    found, named = {record.domain for record in manifest.records}, set(params.prepare.domains)
    if found != named:
        raise DataError(
            f"{path}: lists {' and '.join(sorted(found))} images, but section prepare names "
            f"{' and '.join(sorted(named))}; run `ssr prepare`"
        )
    return manifest


def demand_current_stores(params: Params, index_path: Path) -> None:
    """Refuse to train from features of another teacher than section `embed` names.

    The teacher is not loaded. Where its weight file is absent, as on a machine that only trains,
    the stores are trusted to be of that file.

    Raises:
        StoreError: If there is no index, or it names stores of another teacher or preprocessing.
    """
    if not params.train.regularizer.on:
        return
    teacher = remembered_teacher(params)
    for domain, entry in Index.read(index_path).stores.items():
        stored = entry.provenance["teacher"]
        assert isinstance(stored, dict)
        weights = teacher.remembered_sha256 if teacher.has_weights else stored["weights_sha256"]
        # A hash that was never taken here equals that of no store.
        where = f"{index_path}: the {domain} store"
        demand_provenance(params, entry.provenance, str(weights), where=where)
