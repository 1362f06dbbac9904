"""The store that stage one makes or keeps of one domain: what features depend on, and its images.

Stores of format 1 know a teacher by its tensors' hash, not its file's. One with the features that
are wanted is kept and completed in format 1. That hash needs the loaded weights, so it is computed
only where there is no store of today's format.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from stages.embed.config import EmbedConfig
from stages.prepare.manifest import Domain, ImageRecord, Manifest
from store.codec import Projection
from store.errors import CheckpointError, ConfigError, DataError, StoreMismatchError
from store.files import Url, files_at, join, one_line_for_reads
from store.header import METADATA_FILE, ROOT_FILE
from store.ledger import SLOTS_FILE
from store.spec import FLIPPED, ImageEntry, Level, StoreSpec, levels_of_format_1

if TYPE_CHECKING:
    from stages.embed.teachers.encoder import Encoder

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


def kept_store(
    planned: PlannedStore,
    config: EmbedConfig,
    store_url: Url,
    load: "Callable[[], Encoder]",
) -> PlannedStore:
    """Return the store of format 1 that holds the planned features, or else the planned store.

    The encoder is loaded where neither is known to be there: bad weights end the run before a
    store is begun.

    Raises:
        CheckpointError: for weights that are missing, damaged or of another network.
        StoreUnreadableError: where it cannot be seen whether a store is there.
    """
    needs_format_2 = planned.projection is not None or "horizontal" in config.flips
    if needs_format_2 or _is_there(store_url, planned.spec):
        return planned
    encoder = load()
    if config.teacher.kind != "sam":  # format 1 knew no other
        return planned
    old = replace(planned, spec=_format_1(planned.spec, config, _hash(encoder)))
    return old if _is_there(store_url, old.spec) else planned


def require_provenance(
    config: EmbedConfig,
    projection: Projection | None,
    found: Mapping[str, Any],
    *,
    where: object,
) -> None:
    """Refuse features whose provenance names another teacher, preprocessing or projection.

    Where the teacher's weight file is absent, as on a machine that only trains, the features are
    trusted to be of that file, and so are those of format 1, whose teacher would have to be loaded:
    `ssr embed` does that.

    Raises:
        StoreMismatchError: if they differ.
        CheckpointError: if the weight file cannot be read.
    """
    stored = found.get("teacher")
    stored = stored if isinstance(stored, Mapping) else {}  # then it is another teacher
    weights = {k: v for k, v in stored.items() if k not in config.teacher.identity({})}
    if config.teacher.at_hand:
        weights = config.teacher.weights_identity()
    wanted = provenance(config, weights, projection)
    if "kind" not in stored:
        wanted |= {"teacher": _teacher(config, str(stored.get("weights_sha256")))}
    changed = [key for key in (*wanted, "projection") if found.get(key) != wanted.get(key)]
    if changed:
        raise StoreMismatchError(
            f"{where} was made with another {changed[0]} than the params name; "
            "run `ssr embed`, or put the old values back"
        )


def require_weights(config: EmbedConfig, encoder: "Encoder", spec: StoreSpec) -> None:
    """Refuse to embed with other weights than those that a store is of.

    Raises:
        CheckpointError: if the weight file changed, or is another one on this machine.
    """
    found = (
        _teacher(config, _hash(encoder))
        if spec.format == 1
        else config.teacher.identity(config.teacher.weights_identity())
    )
    if found != spec.provenance["teacher"]:
        raise CheckpointError(
            f"{config.teacher.weights}: holds other weights than the store {spec.relative_path} is "
            "of: give all machines the same file, and run `ssr embed` again"
        )


def _format_1(spec: StoreSpec, config: EmbedConfig, tensors: str) -> StoreSpec:
    about = provenance(config, {}, None) | {"teacher": _teacher(config, tensors)}
    channels = next(iter(spec.levels.values())).channels
    return replace(spec, format=1, levels=levels_of_format_1(channels), provenance=about)


def _teacher(config: EmbedConfig, tensors: str) -> dict[str, Any]:
    """Return the identity of a teacher as format 1 has it; all of them are SAM's."""
    identity = config.teacher.identity({"weights_sha256": tensors})
    return {key: value for key, value in identity.items() if key != "kind"}


def _hash(encoder: "Encoder") -> str:
    from stages.embed.teachers.sam_encoder import hash_weights

    return hash_weights(encoder.network.state_dict())


def _is_there(store_url: Url, spec: StoreSpec) -> bool:
    files = files_at(join(store_url, spec.relative_path))
    with one_line_for_reads(files.url):
        return any(files.size(name) is not None for name in (ROOT_FILE, SLOTS_FILE, METADATA_FILE))
