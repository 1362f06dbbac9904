"""`ssr plan`: what embedding costs in tiles, time and disk, and when it pays.

Without `--calibrate` no weight, image or store is read, only the small files of models in Hugging
Face's format: encoders are counted on PyTorch's meta device where their teacher offers that, stores
by the arithmetic of their grid. `--calibrate` measures speeds here.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil, prod
from pathlib import Path
from shutil import disk_usage
from time import perf_counter
from typing import Final
from uuid import uuid4

import torch
from rich.filesize import decimal

from pipeline.console import console, print_table
from pipeline.params import Params
from pipeline.project import Project
from stages.embed.config import EmbedConfig
from stages.prepare.manifest import Domain, Manifest
from stages.restyle.stage import planned_mixes, with_planned
from stages.train.crops import labelled_images
from stages.train.prefix import PREFIX, prefix_spec
from store.files import Url, files_at, one_line_for_os_errors
from store.spec import LevelGrid, upright

SIZE_RATIOS: Final = {"float16": 1.0, "int8": 0.5, "int8-zstd": 0.38}
"""Bytes of a shard under a codec over those in float16; the last as measured on random weights."""

PNG_BYTES: Final = 1.2
"""Of a pixel in a restyled photograph, about."""

WRITE_TEST_BYTES: Final = 2**23

CPU: Final = "cpu"
SHARE_OF_PEAK: Final = 0.4
"""What a well-fed ViT reaches of a GPU's datasheet, about; `ssr plan --calibrate` measures."""

TFLOPS: Final[Mapping[str, tuple[float, float]]] = {
    CPU: (0.0925, 0.18),  # such that the share is what ViT-B reached on one AMD EPYC core
    "l4": (30.3, 121),
    "rtx 3090": (35.6, 71),
    "rtx 4090": (82.6, 165),
    "a100": (19.5, 312),
    "h100": (67, 989),
    "h200": (67, 989),
}
"""Part of a device's name -> dense peak in float32, without TF32, and in half precision; of the
CPU for each core."""


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """One level of one domain, embedded from nothing."""

    domain: Domain
    level: str
    tiles: int  # that the encoder sees; 0 where the pass of a level before makes this one, too
    size_bytes: int  # in float16, but for checksums and metadata


def plan_stores(project: Project) -> list[LevelPlan]:
    """Plan the stores that embedding all that the params name leaves.

    Raises:
        DataError: If the manifest has no images of a domain to embed.
    """
    levels = []
    params, images = project.params, project.manifest
    if "restyled" in params.embed.domains and params.restyle is not None:
        images = with_planned(images, params.restyle)
    for domain in params.embed.domains:
        store = project.planned_store(domain, images, weights={})
        sizes_px = Counter(image.working_size_px for image in store.images)
        passes = _passes(params.embed, params.embed.stored_levels)
        for level in params.embed.stored_levels:
            grid = LevelGrid.of(store.spec, level)
            counts = [n * len(params.embed.tiles(level, px)) for px, n in sizes_px.items()]
            tiles = sum(counts) if level in passes else 0
            chunks = sum(  # inner chunks that hold a token of an image; others are not stored
                n * len([*grid.chunks_under(0, 0, *grid.image_size_tok(px))])
                for px, n in sizes_px.items()
            )
            levels.append(LevelPlan(domain, level, tiles, chunks * 2 * prod(grid.chunk_shape)))
    return levels


def plan_prefixes(params: Params, manifest: Manifest) -> tuple[int, int]:
    """Count the views that `rein.views` stores, at most (equal ones count once), and their bytes.

    Raises:
        CheckpointError: The frozen network, whose small files are read, is missing.
    """
    rein = params.train.student.rein
    if rein is None or rein.views is None:
        return 0, 0
    spec = prefix_spec(params.train, weights_sha256="not read")
    grid, views = LevelGrid.of(spec, PREFIX), rein.views * len(labelled_images(manifest))
    return views, views * prod(grid.chunks_per_image) * grid.chunk_bytes


def size_bytes(levels: Iterable[LevelPlan], codec: str) -> int:
    """Sum up levels under a codec."""
    return round(sum(level.size_bytes for level in levels) * SIZE_RATIOS[codec])


def tiles_per_step(params: Params) -> int:
    """Count the tiles that official SSR encodes in a step: a crop per image and enhanced pass."""
    train = params.train
    side = (train.crop_px, train.crop_px)
    passes = _passes(params.embed, train.regularizer.used_levels)
    crop = sum(len(params.embed.tiles(level, side)) for level in passes)
    return train.batch_size * crop * len(train.regularizer.on)


def nearest(path: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def table_speed(config: EmbedConfig, device: str) -> float | None:
    """Look up the tiles per second that are expected of a device; None is unknown."""
    known = next((key for key in TFLOPS if re.search(rf"\b{key}\b", device.lower())), None)
    macs = config.teacher.macs_per_tile()
    if known is None or macs is None:
        return None
    peak = TFLOPS[known][config.precision != "float32"]
    units = (os.cpu_count() or 1) if known == CPU else 1
    flops = SHARE_OF_PEAK * peak * units * 1e12
    return flops / (2 * macs)


def measured_speed(config: EmbedConfig) -> float:
    """Time the encoder here, after one batch that warms up; return tiles per second.

    Its weights are random where the teacher can draw them: they cost the same.

    Raises:
        CheckpointError: Weights are needed, and missing or damaged.
        ConfigError: Where there is no such device, or a batch does not fit in its memory.
    """
    teacher = config.teacher.untrained()
    encoder = config.model_copy(update={"teacher": teacher}).load_encoder()
    tiles = torch.zeros(config.batch_tiles, 3, teacher.side_px, teacher.side_px)
    level = config.levels[:1]
    encoder.encode(tiles, level)
    batches, started = 0, perf_counter()
    while (elapsed_s := perf_counter() - started) < 1:
        encoder.encode(tiles, level)  # returns when the tokens are on the CPU
        batches += 1
    return batches * config.batch_tiles / elapsed_s


def writing_speed(url: Url) -> float:
    """Write some bytes where stores go, flush and remove them; return bytes per second.

    Raises:
        StoreError: Where it cannot be written.
    """
    files = files_at(nearest(url) if isinstance(url, Path) else url)
    name, data = f"speed-{uuid4().hex}", os.urandom(WRITE_TEST_BYTES)
    with one_line_for_os_errors(files.url):
        try:
            started = perf_counter()
            files.write(name, data)
            return len(data) / (perf_counter() - started)
        finally:
            files.delete(name)


def print_plan(project: Project, *, device: str | None, calibrate: bool) -> None:
    """Show what stage one will cost on a device, by default this machine's, which may be timed."""
    params, manifest = project.params, project.manifest
    embed, codec = params.embed, params.store.codec
    teacher = embed.teacher
    if device is None or calibrate:
        on_gpu = embed.device != "cpu" and torch.cuda.is_available()
        device = torch.cuda.get_device_name() if on_gpu else CPU
    speed = measured_speed(embed) if calibrate else table_speed(embed, device)
    levels, macs = plan_stores(project), teacher.macs_per_tile()
    work = "tiles" if macs is None else f"{macs / 1e9:,.4g} GMAC per tile"
    tiles = sum(level.tiles for level in levels)
    rows = [(f"{each.domain} {each.level}", [each]) for each in levels] + [("in all", levels)]
    print_table(
        f"teacher {teacher.name}, {embed.precision}, {work} of {teacher.side_px} px; stores below "
        f"{params.store.url}, {codec}",
        ("", "tiles", *SIZE_RATIOS),
        [
            (
                name,
                f"{sum(each.tiles for each in part):,}",
                *(decimal(size_bytes(part, codec)) for codec in SIZE_RATIOS),
            )
            for name, part in rows
        ],
    )
    if speed is None:
        why = f"{device} is not in the table" if macs else "nobody has counted this teacher"
        console.print(f"time: unknown, {why}; --calibrate measures it here")
    else:
        how = "measured" if calibrate else f"assumed {SHARE_OF_PEAK:.0%} of its peak"
        time = timedelta(seconds=round(tiles / speed))
        console.print(f"time: {time} at {speed:.3g} tiles/s on {device}, {how}")
    if params.restyle is not None:
        mixes = planned_mixes(params.restyle, manifest)
        pixels = sum(prod(mix.content.resized_size_px) for mix in mixes)
        console.print(
            f"restyling: {len(mixes):,} images, about {decimal(round(PNG_BYTES * pixels))} of PNG"
        )
    views, views_bytes = plan_prefixes(params, manifest)
    if views:
        console.print(f"prefixes: {views:,} views at most, {decimal(views_bytes)}")
    need, stores = size_bytes(levels, codec) + views_bytes, params.store.location
    free = disk_usage(nearest(stores)).free if isinstance(stores, Path) else None
    if calibrate:
        rate = writing_speed(stores)
        console.print(
            f"writing: {timedelta(seconds=round(need / rate))} at {decimal(round(rate))}/s, "
            f"measured at {params.store.url}; the teacher goes on meanwhile, so the longer time "
            "counts"
        )
    room = "" if free is None else f", {decimal(free)} free"
    full = free is not None and need > free
    console.print(
        f"disk: {decimal(need)} needed{room} at {params.store.url}"
        + (": NOT ENOUGH, unless much of it is there already" if full else "")
    )
    per_step = tiles_per_step(params)
    if per_step:
        console.print(
            f"break-even: step {ceil(tiles / per_step):,} of {params.train.iterations:,}; the "
            f"teacher in the loop encodes {per_step} tiles a step, the stores {tiles:,} once"
        )


def _passes(config: EmbedConfig, levels: Sequence[str]) -> list[str]:
    """Return the levels without those that the pass of one before makes, too."""
    offered = config.teacher.levels()

    def key(level: str) -> tuple[bool, float]:
        return level == upright(level), offered[upright(level)].input_scale

    first = {key(level): level for level in reversed(levels)}
    return [level for level in levels if first[key(level)] == level]
