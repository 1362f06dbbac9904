"""Whether what is on the disk is what params.yaml asks for."""

from pathlib import Path

from pipeline.params import Params
from stages.embed.lazy_teacher import LazyTeacher
from stages.embed.stage import provenance, weights_cache
from stages.prepare.manifest import Manifest
from store.errors import DataError, StoreMismatchError
from store.index import Index
from store.url import parse_url


def current_manifest(params: Params, path: Path) -> Manifest:
    """Read the manifest; refuse one of other domains than section `prepare` names.

    Raises:
        DataError: If there is no manifest, or it is of other domains.
    """
    manifest = Manifest.read(path)
    found, named = {record.domain for record in manifest.records}, set(params.prepare.domains)
    if found != named:
        raise DataError(
            f"{path}: is of {' and '.join(sorted(found))}, but section prepare of the params names "
            f"{' and '.join(sorted(named))}; run `ssr prepare`"
        )
    return manifest


def demand_current_stores(params: Params, index_path: Path) -> None:
    """Refuse to train from features of another teacher than section `embed` names.

    Raises:
        StoreError: If there is no index, or it names stores of another teacher or preprocessing.
        CheckpointError: If the teacher's weights are missing or damaged.
    """
    if not params.train.regularizer.on:
        return
    cache = weights_cache(parse_url(params.store.url), index_path)
    weights = LazyTeacher(params.embed, cache).weights_sha256
    wanted = provenance(params.embed, weights)
    for domain, entry in Index.read(index_path).stores.items():
        changed = [key for key, value in wanted.items() if entry.provenance.get(key) != value]
        if changed:
            raise StoreMismatchError(
                f"{index_path}: the {domain} store was made with another {changed[0]} than section "
                "embed of the params names; run `ssr embed`, or put the old values back"
            )
