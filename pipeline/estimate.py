"""What stage one will cost, and when it pays: a pure function of params and manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from shutil import disk_usage

from pipeline.devices import flops_per_second
from pipeline.params import Params
from pipeline.stores import planned
from stages.embed.architectures import ARCHITECTURES
from stages.embed.config import EmbedConfig
from stages.embed.cost import activation_bytes, macs_per_tile, parameters
from stages.embed.tiling import plan_tiles
from stages.prepare.geometry import Size
from stages.prepare.manifest import Domain, Manifest
from stages.train.cost import TrainMemory, train_memory
from store.footprint import Footprint, footprint, size_ratio
from store.grid import LevelGrid
from store.spec import StoreSpec, stride_of


@dataclass(frozen=True, slots=True)
class LevelEstimate:
    """One level of one domain; `room` is that of float16."""

    domain: Domain
    level: str
    images: int
    tiles: int
    room: Footprint


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the encoder runs, and who says so."""

    tiles_per_second: float
    source: str


@dataclass(frozen=True, slots=True)
class EmbedMemory:
    """Peak of stage one, in bytes.

    Attributes:
        encoder: Weights and one batch; on the GPU where one is used.
        shard: Features of one shard and its encoded form, in main memory.
    """

    encoder: int
    shard: int


@dataclass(frozen=True, slots=True)
class BreakEven:
    """When embedding once is cheaper than the teacher in the loop, counted in its tiles.

    Attributes:
        tiles_per_step: What SSR without a store would encode in every step.
        steps: After so many steps it would have encoded more.
    """

    tiles_per_step: int
    steps: int


@dataclass(frozen=True)
class Estimate:
    """What stage one will cost.

    Attributes:
        levels: One entry per domain and level.
        metadata: Files of the stores that belong to no level.
        macs_per_tile: Multiply-accumulates of the encoder.
        codec: How tokens will be stored.
        speed: None where nobody knows.
        embed_memory: Peak of stage one.
        train_memory: Peak of stage two; rough.
        break_even: None where training reads no features.
    """

    levels: tuple[LevelEstimate, ...]
    metadata: Footprint
    macs_per_tile: int
    codec: str
    speed: Speed | None
    embed_memory: EmbedMemory
    train_memory: TrainMemory
    break_even: BreakEven | None

    @property
    def tiles(self) -> int:
        """Tiles of all domains and levels."""
        return sum(level.tiles for level in self.levels)

    @property
    def seconds(self) -> float | None:
        """Time to embed everything."""
        return self.tiles / self.speed.tiles_per_second if self.speed else None

    @cached_property
    def room(self) -> Footprint:
        """Room of all stores in float16."""
        return sum((level.room for level in self.levels), self.metadata)

    def size_bytes(self, codec: str) -> int:
        """Bytes of all stores under a codec; metadata stays as it is."""
        levels = sum(level.room.size_bytes for level in self.levels)
        return round(levels * size_ratio(codec)) + self.metadata.size_bytes


def estimate(params: Params, manifest: Manifest, *, speed: Speed | None) -> Estimate:
    """Estimate the cost of embedding all that the params name from nothing.

    Args:
        params: All sections.
        manifest: The images.
        speed: Of the encoder, from `table_speed` or a calibration.

    Raises:
        DataError: If the manifest has no images of a domain to embed.
    """
    levels: list[LevelEstimate] = []
    metadata = Footprint(0, 0)
    shard_bytes = 0
    for domain in params.embed.domains:
        store = planned(params, manifest, domain, weights_sha256="0" * 64)
        room = footprint(store.spec, store.images, params.embed.levels)
        metadata += room.metadata
        shard_bytes = max(shard_bytes, _shard_bytes(store.spec, params.embed.levels))
        sizes_px = [image.working_size_px for image in store.images]
        for level in params.embed.levels:
            tiles = _tiles(params.embed, sizes_px, level)
            levels.append(LevelEstimate(domain, level, len(sizes_px), tiles, room.levels[level]))
    architecture = ARCHITECTURES[params.embed.architecture]
    return Estimate(
        levels=tuple(levels),
        metadata=metadata,
        macs_per_tile=macs_per_tile(architecture),
        codec=params.store.codec,
        speed=speed,
        embed_memory=EmbedMemory(
            encoder=4 * parameters(architecture)
            + activation_bytes(architecture, params.embed.batch_tiles),
            shard=shard_bytes,
        ),
        train_memory=train_memory(
            params.train,
            num_classes=len(manifest.classes),
            teacher_channels=architecture.channels,
        ),
        break_even=_break_even(params, sum(level.tiles for level in levels)),
    )


def table_speed(config: EmbedConfig, device: str) -> Speed | None:
    """Look up how fast the encoder is expected to run on a device; None is unknown."""
    found = flops_per_second(device, config.precision)
    if found is None:
        return None
    per_tile = 2 * macs_per_tile(ARCHITECTURES[config.architecture])
    return Speed(found[0] / per_tile, f"{device}, from the table: {found[1]}")


def free_bytes(url: str) -> int | None:
    """Return the room on the disk of a store url; None for one that is no disk's."""
    if "://" in url:
        return None
    path = Path(url).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return disk_usage(path).free


def _tiles(config: EmbedConfig, sizes_px: Sequence[Size], level: str) -> int:
    counts: Mapping[Size, int] = {size: _tiles_of(config, size, level) for size in set(sizes_px)}
    return sum(counts[size] for size in sizes_px)


def _tiles_of(config: EmbedConfig, size_px: Size, level: str) -> int:
    architecture, stride = ARCHITECTURES[config.architecture], stride_of(level)
    tile_tok = architecture.side_px // architecture.patch_px
    size_tok = (size_px[0] // stride, size_px[1] // stride)
    return len(plan_tiles(size_tok, tile_tok, config.overlap))


def _shard_bytes(spec: StoreSpec, levels: Sequence[str]) -> int:
    """Float32 features of all levels, and three float16 copies of the largest on their way out."""
    shapes = [LevelGrid.of(spec, level).shard_shape for level in levels]
    numbers = [images * channels * height * width for images, channels, height, width in shapes]
    return 4 * sum(numbers) + 3 * 2 * max(numbers)


def _break_even(params: Params, embed_tiles: int) -> BreakEven | None:
    """Compare with official SSR, which encodes one crop per image and enhanced pass."""
    train = params.train
    size_px = (train.crop_px, train.crop_px)
    crop = sum(_tiles_of(params.embed, size_px, level) for level in train.regularizer.used_levels)
    parts = train.regularizer.on
    source = train.batch_size * crop * ("source" in parts)
    both = source + train.batch_size * crop * ("mixed" in parts)
    if not both:
        return None
    start = train.self_training.start if train.self_training else 0  # before it nothing is mixed
    early = source * start
    if embed_tiles <= early:
        return BreakEven(both, ceil(embed_tiles / source))
    return BreakEven(both, start + ceil((embed_tiles - early) / both))
