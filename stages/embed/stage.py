"""Stage one: bring the feature stores up to date with the manifest.

# Differs from SSR: SAM runs once per image instead of in every step. The regulariser therefore sees
# tokens of whole-image tiles instead of crops, of clean instead of jittered and blurred pixels, at
# aligned crop origins, mirrored instead of re-encoded under flips (unless `embed.flips` says so),
# and mixed on the token grid.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from stages.embed.config import EmbedConfig
from stages.embed.stores import PlannedStore, kept_store, planned_store, require_weights
from stages.prepare.manifest import Domain, Manifest
from store.codec import Bases, Basis, Projection, estimate_scale, fit_basis, scale_sample
from store.errors import DataError
from store.files import Url, files_at, join, one_line_for_reads
from store.header import read_bases
from store.index import Index, StoreEntry
from store.lease import WHOLE, Part
from store.shard_writer import ShardTask
from store.write import StoreWriter

if TYPE_CHECKING:
    from stages.embed.task import EmbeddedShard, Features
    from stages.embed.teachers.encoder import Encoder

Step: TypeAlias = Literal["all", "init", "finalise"] | Part
"""All of the stage, or one step of it for job arrays: `init` fixes metadata and scales, each part
(i, n) embeds its own shards, `finalise` writes the index."""

Progress = Callable[[int, int, str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DomainResult:
    """What was done for one domain.

    Attributes:
        images: images that the store holds, or will hold.
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
        index_path: the small file that names the current stores; None if it was not due.
        trained: False where the teacher's weights are random: UNTRAINED TEACHER.
    """

    domains: Mapping[Domain, DomainResult]
    index_path: Path | None
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
    step: Step = "all",
    projection: Projection | None = None,
) -> EmbedResult:
    """Embed what the stores lack and write the index.

    Idempotent: shards that the store's ledger records stay as they are, and where all do, the
    teacher is not loaded. An interrupted run continues with the shards that it had not written.

    Stores lie at `<store_url>/<domain>/<fingerprint8>.zarr`; a shard, the unit of writing and
    resuming, has `shard_images` images. `progress` is called with images done, images to do, and
    the domain. Without `projection` all channels of the teacher are stored.

    Raises:
        CheckpointError: for weights that are missing, damaged or of another architecture.
        ConfigError: for a dask scheduler that is not there, workers that die, or more principal
            components than a level has channels.
        DataError: for a domain without images, or an image that changed since `ssr prepare`.
        StoreError: for a store that is in use, cannot be written, or is not ready for this step.
    """
    trained = config.teacher.trained
    load = cache(config.load_encoder)
    if config.domains and not trained:
        log.warning("UNTRAINED TEACHER: embed.teacher.weights is random")
    entries: dict[str, StoreEntry] = {}
    results: dict[Domain, DomainResult] = {}
    plan = partial(
        planned_store,
        config,
        manifest=manifest,
        shard_images=shard_images,
        codec=codec,
        projection=projection,
    )
    for domain in config.domains:
        planned = plan(domain, weights=config.teacher.weights_identity())

        def bases_of_others(domain: Domain = domain) -> Bases:
            """Read the bases of the other domains: training mixes features of all."""
            bases: dict[str, Basis] = {}
            for other in sorted({record.domain for record in manifest.records} - {domain}):
                try:
                    spec = plan(other, weights=config.teacher.weights_identity()).spec
                except DataError:  # the manifest has no images of it in these splits
                    continue
                files = files_at(join(store_url, spec.relative_path))
                with one_line_for_reads(files.url):
                    bases |= read_bases(files, spec, config.levels)
            return bases

        planned = kept_store(planned, config, store_url, load)
        entry, results[domain] = _run_domain(
            planned,
            config=config,
            load=load,
            domain=domain,
            bases_of_others=bases_of_others,
            root=roots[domain],
            store_url=store_url,
            step=step,
            progress=progress,
        )
        if entry is not None:
            entries[domain] = entry
    finished = step in ("all", "finalise")
    if finished:
        Index(stores=entries).write(index_path)
    return EmbedResult(results, index_path if finished else None, trained)


def _run_domain(
    planned: PlannedStore,
    *,
    config: EmbedConfig,
    domain: Domain,
    load: "Callable[[], Encoder]",
    bases_of_others: Callable[[], Bases],
    root: Path,
    store_url: Url,
    step: Step,
    progress: Progress,
) -> tuple[StoreEntry | None, DomainResult]:
    started = perf_counter()
    part = WHOLE if isinstance(step, str) else step
    embedder = _Embedder(config, load, planned, root)
    levels = config.stored_levels
    with StoreWriter(store_url, planned.spec, planned.images, levels, part=part) as writer:
        if part == WHOLE and step != "finalise":
            embedder.fix_scales(writer, bases_of_others)
        tasks = [] if step in ("init", "finalise") else writer.pending()
        todo = sum(entry is not None for task in tasks for entry in task.images)
        done = 0

        def image_done() -> None:
            nonlocal done
            done += 1
            progress(done, todo, domain)

        if tasks:
            embedder.embed(tasks, writer, image_done)
        entry = writer.finalise() if step in ("all", "finalise") else None
    return entry, DomainResult(
        path=join(store_url, planned.spec.relative_path),
        fingerprint=planned.spec.fingerprint,
        images=len(planned.images) if entry is None else entry.images,
        embedded=todo,
        seconds=perf_counter() - started,
    )


@dataclass(frozen=True)
class _Embedder:
    """Embed images of one domain; torch is imported only where there is work."""

    config: EmbedConfig
    load: "Callable[[], Encoder]"
    planned: PlannedStore
    root: Path

    def embed(
        self, tasks: Sequence[ShardTask], writer: StoreWriter, image_done: Callable[[], None]
    ) -> None:
        """Embed and write shards."""
        if self.config.executor == "dask":
            from stages.embed.cluster import ShardJob, run_dask

            job = ShardJob.of(self.config, self.root, writer.shards)
            run_dask(job, tasks, self.planned.records, image_done=image_done)
            return
        from stages.embed.task import run_serial

        with self._shards(tasks, image_done, writer.bases) as shards:
            run_serial(shards, lambda shard: writer.write_shard(shard.task, shard.features()))

    def fix_scales(self, writer: StoreWriter, bases_of_others: Callable[[], Bases]) -> None:
        """Find scales that the writer lacks, and bases that the other domains lack as well.

        Both come from a sample of the images.
        """
        if not writer.unready:
            return
        from stages.embed.task import project

        known = bases_of_others() if writer.unprojected else {}
        bases = {level: known[level] for level in writer.unprojected if level in known}
        lacking = [n for n in writer.unready if n in writer.unscaled or n not in bases]
        features: Features = {}
        if lacking:
            sample = ShardTask(0, scale_sample(self.planned.images), tuple(lacking))
            with self._shards([sample], lambda: None, {}) as shards:
                (shard,) = shards
                features = shard.features()
        for level in writer.unprojected:
            if level not in bases and self.planned.projection is not None:
                bases[level] = fit_basis(level, features[level].values(), self.planned.projection)
        features = project(features, {**writer.bases, **bases})
        scales = {level: estimate_scale(features[level].values()) for level in writer.unscaled}
        writer.fix_scales(scales, bases)

    @contextmanager
    def _shards(
        self, tasks: Sequence[ShardTask], image_done: Callable[[], None], bases: Bases
    ) -> "Iterator[Iterator[EmbeddedShard]]":
        from stages.device import cpu_threads
        from stages.embed.task import embed_shards

        encoder = self.load()
        require_weights(self.config, encoder, self.planned.spec)
        shards = embed_shards(
            tasks,
            config=self.config,
            encoder=encoder,
            records=self.planned.records,
            root=self.root,
            image_done=image_done,
            bases=bases,
        )
        with cpu_threads(self.config.threads), closing(shards):
            yield shards
