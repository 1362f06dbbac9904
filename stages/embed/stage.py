"""Stage one: bring the feature stores up to date with the manifest.

# Differs from SSR: SAM runs once per image instead of in every step. The regulariser therefore sees
# tokens of whole-image tiles instead of crops, of clean instead of jittered and blurred pixels, at
# aligned crop origins, mirrored instead of re-encoded under flips, and mixed on the token grid.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from stages.embed.architectures import ARCHITECTURES
from stages.embed.config import EmbedConfig
from stages.embed.executor import run_serial
from stages.embed.lazy_teacher import LazyTeacher
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import MEAN, STD
from store.errors import DataError
from store.index import Index, StoreEntry
from store.scale import estimate_scale, scale_sample
from store.spec import ImageEntry, StoreSpec
from store.url import Url, join
from store.write import ShardTask, StoreWriter

if TYPE_CHECKING:
    from stages.embed.task import Features

EMBEDDING_VERSION: Final = 2
"""Raise it when a change of this package changes the features of the same teacher and image."""

WEIGHTS_CACHE: Final = ".weights.json"
"""File that remembers hashes of weights, see `weights_cache`; safe to delete."""

Progress = Callable[[int, int, str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DomainResult:
    """What was done for one domain.

    Attributes:
        path: the store.
        fingerprint: what its features depend on.
        images: images that it holds.
        embedded: images that were embedded now, in at least one level.
        seconds: time that took, with loading the teacher.
    """

    path: Url
    fingerprint: str
    images: int
    embedded: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Speed of what was embedded; 0 where nothing was."""
        return self.embedded / self.seconds if self.embedded else 0.0


@dataclass(frozen=True)
class EmbedResult:
    """Result of the stage.

    Attributes:
        domains: one entry per domain of the config.
        index_path: the small file that names the current stores.
        trained: False where the teacher's weights are random: UNTRAINED TEACHER.
    """

    domains: Mapping[Domain, DomainResult]
    index_path: Path
    trained: bool


def run(
    config: EmbedConfig,
    *,
    manifest: Manifest,
    roots: Mapping[Domain, Path],
    store_url: Url,
    shard_images: int,
    codec: str,
    index_path: Path,
    progress: Progress,
) -> EmbedResult:
    """Embed what the stores lack and write the index.

    Idempotent: shards that the store's ledger vouches for stay as they are, and where all do, the
    teacher is not loaded. An interrupted run continues with the shards that it had not written.

    Args:
        config: section `embed`.
        manifest: the images.
        roots: folder of each domain.
        store_url: folder or S3 prefix of the stores, `<store_url>/<domain>/<fingerprint8>.zarr`.
        shard_images: images per shard, the unit of writing and resuming.
        codec: how tokens are stored.
        index_path: where the index is written.
        progress: called with images done, images to do, and the domain.

    Raises:
        CheckpointError: for weights that are missing, damaged or of another architecture.
        DataError: for a domain without images, or an image that changed since `ssr prepare`.
        StoreError: for a store that is in use or cannot be written.
    """
    teacher = LazyTeacher(config, weights_cache(store_url, index_path))
    if config.domains and not teacher.trained:
        log.warning("UNTRAINED TEACHER: embed.weights is random (seed %d)", config.seed)
    entries: dict[str, StoreEntry] = {}
    results: dict[Domain, DomainResult] = {}
    for domain in config.domains:
        records = {
            record.image_id: record
            for record in manifest.select(domain=domain)
            if record.split in config.splits
        }
        if not records:
            raise DataError(
                f"the manifest has no {' or '.join(config.splits)} images of domain {domain}; "
                "change embed.domains or embed.splits, or run `ssr prepare`"
            )
        entries[domain], results[domain] = _run_domain(
            domain,
            config=config,
            teacher=teacher,
            records=records,
            root=roots[domain],
            store_url=store_url,
            shard_images=shard_images,
            codec=codec,
            progress=progress,
        )
    Index(stores=entries).write(index_path)
    return EmbedResult(domains=results, index_path=index_path, trained=teacher.trained)


def weights_cache(store_url: Url, index_path: Path) -> Path:
    """Return where this machine remembers hashes of weights: with the stores, if they are here."""
    return (store_url if isinstance(store_url, Path) else index_path.parent) / WEIGHTS_CACHE


def provenance(config: EmbedConfig, weights_sha256: str) -> dict[str, Any]:
    """Describe all that the features of given images depend on, in JSON's types."""
    architecture = ARCHITECTURES[config.architecture]
    return {
        "teacher": {
            "architecture": config.architecture,
            "weights_sha256": weights_sha256,
            "trained": config.weights != "random",
            "side_px": architecture.side_px,
            "patch_px": architecture.patch_px,
            "channels": architecture.channels,
        },
        "preprocessing": {
            "mean": list(MEAN),
            "std": list(STD),
            "scaling": "bilinear, antialiased when shrinking",
        },
        "tiling": {"overlap": config.overlap, "blend": "linear"},
        "precision": config.precision,
        "version": EMBEDDING_VERSION,
    }


def _run_domain(
    domain: Domain,
    *,
    config: EmbedConfig,
    teacher: LazyTeacher,
    records: Mapping[str, ImageRecord],
    root: Path,
    store_url: Url,
    shard_images: int,
    codec: str,
    progress: Progress,
) -> tuple[StoreEntry, DomainResult]:
    started = perf_counter()
    sizes = [record.working_size_px for record in records.values()]
    spec = StoreSpec(
        domain=domain,
        channels=ARCHITECTURES[config.architecture].channels,
        grid_px=(max(height for height, _ in sizes), max(width for _, width in sizes)),
        shard_images=shard_images,
        codec=codec,
        provenance=provenance(config, teacher.weights_sha256),
    )
    images = [
        ImageEntry(record.image_id, record.content, record.working_size_px)
        for record in records.values()
    ]

    @contextmanager
    def embedded(
        tasks: Sequence[ShardTask], image_done: Callable[[], None]
    ) -> "Iterator[Iterator[tuple[ShardTask, Features]]]":
        # torch, only where there is work
        from stages.device import cpu_threads
        from stages.embed.task import embed_shards

        with (
            cpu_threads(config.threads),
            closing(
                embed_shards(
                    tasks,
                    teacher=teacher.loaded,
                    records=records,
                    root=root,
                    overlap=config.overlap,
                    batch_tiles=config.batch_tiles,
                    image_done=image_done,
                )
            ) as shards,
        ):
            yield shards

    with StoreWriter(store_url, spec, images, config.levels) as writer:
        if writer.unscaled:
            sample = ShardTask(0, scale_sample(images), writer.unscaled)
            with embedded([sample], lambda: None) as shards:
                ((_, features),) = shards
            writer.fix_scales({n: estimate_scale(held.values()) for n, held in features.items()})
        tasks = writer.pending()
        todo = sum(entry is not None for task in tasks for entry in task.images)
        if tasks:
            done = 0

            def image_done() -> None:
                nonlocal done
                done += 1
                progress(done, todo, domain)

            with embedded(tasks, image_done) as shards:
                run_serial(shards, writer.write_shard)
        entry = writer.finalise()
    return entry, DomainResult(
        path=join(store_url, entry.path),
        fingerprint=spec.fingerprint,
        images=len(records),
        embedded=todo,
        seconds=perf_counter() - started,
    )
