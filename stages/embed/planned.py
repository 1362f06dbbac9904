"""The store that stage one makes of one domain: what its features depend on, and its images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from stages.embed.config import EmbedConfig
from stages.embed.teachers.sam import ARCHITECTURES
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from stages.prepare.pixels import MEAN, STD
from store.errors import DataError
from store.spec import ImageEntry, StoreSpec

EMBEDDING_VERSION: Final = 2
"""Raise it when a change of this package changes the features of the same teacher and image."""


@dataclass(frozen=True)
class PlannedStore:
    """One store before, or while, it is made.

    Attributes:
        spec: its specification.
        images: its images in order.
        records: their manifest rows by image id.
    """

    spec: StoreSpec
    images: tuple[ImageEntry, ...]
    records: Mapping[str, ImageRecord]


def planned_store(
    config: EmbedConfig,
    domain: Domain,
    *,
    manifest: Manifest,
    shard_images: int,
    codec: str,
    weights_sha256: str,
) -> PlannedStore:
    """Return the store that `ssr embed` makes or keeps for a domain.

    Args:
        config: section `embed`.
        domain: one of its domains.
        manifest: the images.
        shard_images: images per shard.
        codec: how tokens are stored.
        weights_sha256: hash of the teacher's weights; any 64 digits do where only sizes matter.

    Raises:
        DataError: for a domain of which the manifest has no images to embed.
    """
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
    sizes = [record.working_size_px for record in records.values()]
    spec = StoreSpec(
        domain=domain,
        channels=ARCHITECTURES[config.architecture].channels,
        grid_px=(max(height for height, _ in sizes), max(width for _, width in sizes)),
        shard_images=shard_images,
        codec=codec,
        provenance=provenance(config, weights_sha256),
    )
    images = tuple(
        ImageEntry(record.image_id, record.content, record.working_size_px)
        for record in records.values()
    )
    return PlannedStore(spec, images, records)


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
