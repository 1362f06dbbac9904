"""The store that stage one makes of one domain: what its features depend on, and its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stages.embed.config import EmbedConfig
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from store.basis import Projection
from store.errors import ConfigError, DataError
from store.spec import FLIPPED, ImageEntry, Level, StoreSpec

EMBEDDING_VERSION: Final = 2
"""Raise it when a change of this package changes the features of the same teacher and image."""


@dataclass(frozen=True)
class PlannedStore:
    """One store before, or while, it is made; `records` are its images in the manifest, by id."""

    spec: StoreSpec
    images: tuple[ImageEntry, ...]
    records: Mapping[str, ImageRecord]
    projection: Projection | None


def planned_store(
    config: EmbedConfig,
    domain: Domain,
    *,
    manifest: Manifest,
    shard_images: int,
    codec: str,
    weights: Mapping[str, Any],
    projection: Projection | None = None,
) -> PlannedStore:
    """Return the store that `ssr embed` makes or keeps for a domain.

    `weights` are the teacher's `weights_identity`; anything does where only sizes matter. Without
    `projection` all channels of the teacher are stored.

    Raises:
        CheckpointError: for a model whose levels cannot be known.
        ConfigError: for a level that the teacher does not have, or with fewer channels than are to
            be stored.
        DataError: for a domain of which the manifest has no images to embed.
    """
    rows = [row for row in manifest.select(domain=domain) if row.split in config.splits]
    if not rows:
        raise DataError(
            f"the manifest has no {' or '.join(config.splits)} images of domain {domain}; "
            "change embed.domains or embed.splits, or run `ssr prepare`"
        )
    config.require_levels()
    heights_px, widths_px = zip(*(row.working_size_px for row in rows), strict=True)
    offered = config.teacher.levels()
    levels = {name: Level(level.stride_px, level.channels) for name, level in offered.items()}
    if projection is not None:
        for name in config.levels:
            if projection.channels > levels[name].channels:
                raise ConfigError(
                    f"store.channels {projection.channels} is more than the "
                    f"{levels[name].channels} channels of {name}; lower it, or set it to null"
                )
        levels = {
            name: Level(level.stride_px, min(level.channels, projection.channels))
            for name, level in levels.items()
        }
    if "horizontal" in config.flips:
        levels |= {name + FLIPPED: level for name, level in levels.items()}
    spec = StoreSpec(
        domain=domain,
        levels=levels,
        grid_px=(max(heights_px), max(widths_px)),
        shard_images=shard_images,
        codec=codec,
        provenance=provenance(config, weights, projection),
    )
    images = tuple(ImageEntry(row.image_id, row.content, row.working_size_px) for row in rows)
    return PlannedStore(spec, images, {row.image_id: row for row in rows}, projection)


def weights_of(teacher: Mapping[str, Any]) -> str:
    """Name the weights of a teacher's identity, for people."""
    sha256 = teacher.get("weights_sha256")
    return f"random, seed {teacher.get('seed')}" if sha256 is None else f"sha256 {sha256[:12]}"


def provenance(
    config: EmbedConfig, weights: Mapping[str, Any], projection: Projection | None
) -> dict[str, Any]:
    """Describe all that the features of given images depend on, in JSON's types.

    `weights` are the teacher's `weights_identity`.
    """
    mean, std = config.teacher.normalisation(weights)
    about = {
        "teacher": config.teacher.identity(weights),
        "preprocessing": {
            "mean": list(mean),
            "std": list(std),
            "scaling": "bilinear, antialiased when shrinking",
        },
        "tiling": {"overlap": config.overlap, "blend": "linear"},
        "precision": config.precision,
        "version": EMBEDDING_VERSION,
    }
    return about if projection is None else about | {"projection": projection._asdict()}
