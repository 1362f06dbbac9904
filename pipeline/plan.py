"""`ssr plan`: what embedding costs in tiles, time, disk and memory, and when it pays.

Only counts: no weight, no image and no store is read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from shutil import disk_usage

from pipeline.console import console, print_table, size
from pipeline.devices import flops_per_second
from pipeline.params import Params
from pipeline.stores import planned
from stages.embed.config import EmbedConfig
from stages.embed.teachers.teacher import Counted
from stages.prepare.manifest import Domain, Manifest
from store.codec import CODECS
from store.footprint import Footprint, footprint, size_ratio
from store.grid import LevelGrid
from store.spec import StoreSpec


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """One level of one domain.

    Attributes:
        domain: of the images.
        level: its name.
        images: that it has.
        tiles: to encode; 0 where the pass of a level before makes this one, too.
        room: that of float16.
    """

    domain: Domain
    level: str
    images: int
    tiles: int
    room: Footprint


@dataclass(frozen=True)
class StoresPlan:
    """All stores that the params name, embedded from nothing.

    Attributes:
        levels: One entry per domain and level.
        metadata: Files of the stores that belong to no level.
        shard_bytes: Most main memory for one shard: its features and their encoded form.
    """

    levels: tuple[LevelPlan, ...]
    metadata: Footprint
    shard_bytes: int

    @property
    def tiles(self) -> int:
        """Tiles of all domains and levels."""
        return sum(level.tiles for level in self.levels)

    @cached_property
    def room(self) -> Footprint:
        """Room of all stores in float16."""
        return sum((level.room for level in self.levels), self.metadata)

    def size_bytes(self, codec: str) -> int:
        """Bytes of all stores under a codec; metadata stays as it is."""
        levels = sum(level.room.size_bytes for level in self.levels)
        return round(levels * size_ratio(codec)) + self.metadata.size_bytes


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the encoder runs, and who says so."""

    tiles_per_second: float
    source: str


@dataclass(frozen=True, slots=True)
class BreakEven:
    """When embedding once is cheaper than the teacher in the loop, counted in its tiles.

    Attributes:
        tiles_per_step: What SSR without a store would encode in every step.
        steps: After so many steps it would have encoded more.
    """

    tiles_per_step: int
    steps: int


def plan_stores(params: Params, manifest: Manifest) -> StoresPlan:
    """Plan the stores that embedding all that the params name leaves.

    Raises:
        DataError: If the manifest has no images of a domain to embed.
    """
    levels: list[LevelPlan] = []
    metadata, shard_bytes = Footprint(0, 0), 0
    for domain in params.embed.domains:
        store = planned(params, manifest, domain, weights={})
        room = footprint(store.spec, store.images, params.embed.levels)
        metadata += room.metadata
        shard_bytes = max(shard_bytes, _shard_bytes(store.spec, params.embed.levels))
        sizes_px = [image.working_size_px for image in store.images]
        passes = _passes(params.embed, params.embed.levels)
        for level in params.embed.levels:
            counts = {size: len(params.embed.tiles(level, size)) for size in set(sizes_px)}
            tiles = sum(counts[size] for size in sizes_px) if level in passes else 0
            levels.append(LevelPlan(domain, level, len(sizes_px), tiles, room.levels[level]))
    return StoresPlan(tuple(levels), metadata, shard_bytes)


def break_even(params: Params, embed_tiles: int) -> BreakEven | None:
    """Compare with official SSR, which encodes one crop per image and enhanced pass.

    Returns:
        None where training reads no features.
    """
    train = params.train
    size_px = (train.crop_px, train.crop_px)
    passes = _passes(params.embed, train.regularizer.used_levels)
    crop = sum(len(params.embed.tiles(level, size_px)) for level in passes)
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


def table_speed(config: EmbedConfig, device: str) -> Speed | None:
    """Look up how fast the encoder is expected to run on a device; None is unknown."""
    found = flops_per_second(device, config.precision)
    counted = config.teacher.counted(config.batch_tiles)
    if found is None or counted is None:
        return None
    return Speed(found[0] / (2 * counted.macs), f"{device}, from the table: {found[1]}")


def free_bytes(url: str) -> int | None:
    """Return the room on the disk of a store url; None for one that is not on a disk."""
    if "://" in url:
        return None
    path = Path(url).expanduser().absolute()
    while not path.exists():
        path = path.parent
    return disk_usage(path).free


def print_plan(
    plan: StoresPlan, params: Params, *, classes: int, speed: Speed | None, device: str
) -> None:
    """Show what stage one will cost, line by line.

    Args:
        plan: The stores.
        params: What they are of.
        classes: Of the student's logits.
        speed: Of the encoder, from `table_speed` or a calibration.
        device: Where it was looked up.
    """
    from stages.train.models import train_memory

    teacher = params.embed.teacher
    counted = teacher.counted(params.embed.batch_tiles)
    macs = f"{_count(counted.macs)}MAC per tile" if counted else "tiles"
    print_table(
        f"teacher {teacher.name}, {params.embed.precision}: {macs} of {teacher.side_px} px",
        ("", "images", "tiles", "MAC", "time"),
        _work_rows(plan, counted, speed),
    )
    codec = params.store.codec
    print_table(
        f"stores below {params.store.url}, {codec}",
        ("", "files", *CODECS),
        _disk_rows(plan, CODECS),
    )
    if speed is None:
        why = f"{device} is not in the table" if counted else "nobody has counted this teacher"
        console.print(
            f"time: unknown, {why}; `ssr plan --calibrate` measures a few "
            "tiles, `--device a100` asks for another device"
        )
    else:
        rate = speed.tiles_per_second
        console.print(
            f"time: {_duration(plan.tiles / rate)} at {rate:.3g} tiles/s"
            + (f", {2 * counted.macs * rate / 1e12:.3g} TFLOP/s" if counted else "")
            + f" ({speed.source})"
        )
    need, free = plan.size_bytes(codec), free_bytes(params.store.url)
    room = "" if free is None else f", {size(free)} free"
    full = free is not None and need > free
    console.print(
        f"disk: {size(need)} needed{room} at {params.store.url}"
        + (": NOT ENOUGH, unless much of it is there already" if full else "")
    )
    encoder = f"about {size(counted.memory_bytes)}" if counted else "an unknown amount"
    train = train_memory(params.train, num_classes=classes, levels=params.teacher_levels)
    console.print(
        f"memory: embed {encoder} for the encoder and {size(plan.shard_bytes)} for "
        f"a shard; train roughly {size(train.total)}, {size(train.activations)} of it activations"
    )
    pays, iterations = break_even(params, plan.tiles), params.train.iterations
    console.print(
        "break-even: none, training reads no features (train.regularizer.on is [])"
        if pays is None
        else f"break-even: step {pays.steps:,}, {pays.steps / iterations:.2g} runs of "
        f"{iterations:,} steps; the teacher in the loop encodes {pays.tiles_per_step} tiles a "
        f"step, the stores {plan.tiles:,} once"
    )


def _passes(config: EmbedConfig, levels: Sequence[str]) -> list[str]:
    """Return the levels without those that the pass of one before makes, too."""
    offered = config.teacher.levels()
    first = {offered[level].input_scale: level for level in reversed(levels)}
    return [level for level in levels if first[offered[level].input_scale] == level]


def _shard_bytes(spec: StoreSpec, levels: Sequence[str]) -> int:
    """Float32 features of all levels, and three float16 copies of the largest on their way out."""
    shapes = [LevelGrid.of(spec, level).shard_shape for level in levels]
    numbers = [images * channels * height * width for images, channels, height, width in shapes]
    return 4 * sum(numbers) + 3 * 2 * max(numbers)


def _work_rows(
    plan: StoresPlan, counted: Counted | None, speed: Speed | None
) -> Iterator[tuple[str, ...]]:
    images = {level.domain: level.images for level in plan.levels}
    for name, count, tiles in (
        *((f"{each.domain} {each.level}", each.images, each.tiles) for each in plan.levels),
        ("in all", sum(images.values()), plan.tiles),
    ):
        time = _duration(tiles / speed.tiles_per_second) if speed else "?"
        macs = _count(tiles * counted.macs) if counted else "?"
        yield name, f"{count:,}", f"{tiles:,}", macs, time


def _disk_rows(plan: StoresPlan, codecs: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for level in plan.levels:
        sizes = (size(round(level.room.size_bytes * size_ratio(codec))) for codec in codecs)
        yield f"{level.domain} {level.level}", f"{level.room.files:,}", *sizes
    metadata = plan.metadata
    yield "metadata", f"{metadata.files:,}", *(size(metadata.size_bytes) for _ in codecs)
    yield "in all", f"{plan.room.files:,}", *(size(plan.size_bytes(codec)) for codec in codecs)


def _count(macs: int) -> str:
    value, units = macs / 1e9, ["G", "T", "P", "E"]
    while value >= 10_000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.4g} {units[0]}"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
