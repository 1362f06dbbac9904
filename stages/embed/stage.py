"""Stage one: bring the feature stores up to date with the manifest.

# Differs from SSR: SAM runs once per image instead of in every step. The regulariser therefore sees
# tokens of whole-image tiles instead of crops, of clean instead of jittered and blurred pixels, at
# aligned crop origins, mirrored instead of re-encoded under flips (unless `embed.flips` says so),
# and mixed on the token grid.
"""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias

from stages.embed.config import EmbedConfig
from stages.embed.stores import PlannedStore, kept_store, planned_store, require_weights
from stages.prepare.manifest import Domain, Manifest
from store.codec import Bases, Basis, Projection, estimate_scale, fit_basis, scale_sample
from store.files import Url, files_at, join, one_line_for_reads
from store.header import read_bases
from store.index import Index, StoreEntry
from store.lease import WHOLE, Part
from store.shard_writer import ShardTask
from store.spec import StoreSpec
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
    """What was done for one domain."""

    path: Url  # of its store
    images: int  # that the store holds, or will hold
    embedded: int  # now, in at least one level
    images_per_second: float  # of those embedded, with loading the teacher


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
) -> dict[Domain, DomainResult]:
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
    if config.domains and not config.teacher.trained:
        log.warning("UNTRAINED TEACHER: embed.teacher.weights is random")
    load = cache(config.load_encoder)

    def plan(domain: Domain) -> PlannedStore:
        return planned_store(
            config,
            domain,
            manifest=manifest,
            shard_images=shard_images,
            codec=codec,
            weights=config.teacher.weights_identity(),
            projection=projection,
        )

    listed = {record.domain for record in manifest.records if record.split in config.splits}
    entries: dict[str, StoreEntry] = {}
    results: dict[Domain, DomainResult] = {}
    for domain in config.domains:
        embedder = _Embedder(
            config=config,
            planned=kept_store(plan(domain), config, store_url, load),
            others=[plan(other).spec for other in sorted(listed - {domain})],
            root=roots[domain],
            store_url=store_url,
            load=load,
            progress=progress,
        )
        entry, results[domain] = embedder.run(step)
        if entry is not None:
            entries[domain] = entry
    if step in ("all", "finalise"):
        Index(stores=entries).write(index_path)
    return results


@dataclass(frozen=True)
class _Embedder:
    """Bring the store of one domain up to date; torch is imported only where there is work."""

    config: EmbedConfig
    planned: PlannedStore
    others: Sequence[StoreSpec]  # of the other domains
    root: Path
    store_url: Url
    load: "Callable[[], Encoder]"
    progress: Progress

    def run(self, step: Step) -> tuple[StoreEntry | None, DomainResult]:
        started, embedded = perf_counter(), 0
        spec, images = self.planned.spec, self.planned.images
        part = WHOLE if isinstance(step, str) else step
        levels = self.config.stored_levels
        with StoreWriter(self.store_url, spec, images, levels, part=part) as writer:
            if part == WHOLE and step != "finalise":
                self._fix_scales(writer)
            if step not in ("init", "finalise"):
                embedded = self._embed(writer)
            entry = writer.finalise() if step in ("all", "finalise") else None
        return entry, DomainResult(
            path=writer.path,
            images=len(images) if entry is None else entry.images,
            embedded=embedded,
            images_per_second=embedded / (perf_counter() - started),
        )

    def _embed(self, writer: StoreWriter) -> int:
        """Embed and write the shards that are not done; return of how many images they are."""
        tasks = writer.pending()
        todo = sum(image is not None for task in tasks for image in task.images)
        done = 0

        def image_done() -> None:
            nonlocal done
            done += 1
            self.progress(done, todo, self.planned.spec.domain)

        if tasks and self.config.executor == "dask":
            from stages.embed.cluster import run_dask

            run_dask(
                self.config,
                tasks,
                self.planned.records,
                root=self.root,
                writer=writer.shards,
                image_done=image_done,
            )
        elif tasks:
            from stages.embed.task import run_serial

            shards = self._shards(tasks, writer.header.bases, image_done)
            run_serial(shards, lambda shard: writer.write_shard(shard.task, shard.features()))
        return todo

    def _fix_scales(self, writer: StoreWriter) -> None:
        """Find scales and bases that the writer lacks in a sample of the images.

        Training mixes features of all domains: a basis that another store has is taken from there.
        """
        if not writer.unready:
            return
        from stages.embed.task import project

        found: dict[str, Basis] = {}
        for other in self.others:
            files = files_at(join(self.store_url, other.relative_path))
            with one_line_for_reads(files.url):
                found |= read_bases(files.read, other, writer.unprojected)
        bases = {level: found[level] for level in writer.unprojected if level in found}
        lacking = [n for n in writer.unready if n in writer.unscaled or n not in bases]
        features: Features = {}
        if lacking:
            sample = ShardTask(0, scale_sample(self.planned.images), tuple(lacking))
            (shard,) = self._shards([sample], {})
            features = shard.features()
        for level in writer.unprojected:
            if level not in bases and self.planned.projection is not None:
                bases[level] = fit_basis(level, features[level].values(), self.planned.projection)
        features = project(features, {**writer.header.bases, **bases})
        scales = {
            level: estimate_scale(level, features[level].values()) for level in writer.unscaled
        }
        writer.fix_scales(scales, bases)

    def _shards(
        self,
        tasks: Sequence[ShardTask],
        bases: Bases,
        image_done: Callable[[], None] = lambda: None,
    ) -> "Generator[EmbeddedShard, None, None]":
        from stages.embed.task import embed_shards

        encoder = self.load()
        require_weights(self.config, encoder, self.planned.spec)
        return embed_shards(
            tasks,
            config=self.config,
            encoder=encoder,
            records=self.planned.records,
            root=self.root,
            bases=bases,
            image_done=image_done,
        )
