"""From shard tasks to features: read, cut, encode, blend, all at the same time.

    reader threads:  read and resize image 7 | cut, normalise and scale its tiles
    this thread:     encode a batch of tiles | blend it into images
    writer threads:  (`run_serial`) project and write the shards before

All that comes after resizing happens on the encoder's device. On a GPU nothing here waits for it
but the writers: image 7 goes there once, as bytes, and each level of it comes back once.

A batch takes tiles of several images, but at one input scale and orientation of one shard: in
whichever run, order and company that comes to be made, its batches are the same, and so are its
bytes.
"""

# B tiles, C channels, H W working pixels, h w tokens

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.device import cpu_threads
from stages.embed.config import EmbedConfig
from stages.embed.teachers.encoder import Encoder
from stages.embed.tiling import Tile
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import normalised_window, read_raw, resize_image
from store.codec import Bases
from store.shard_writer import ShardTask
from store.spec import upright

_T = TypeVar("_T")

Features = dict[str, dict[str, NDArray[Any]]]
"""level -> image id -> (C, h, w) float32, or float16 of what a GPU computed"""


@dataclass(frozen=True, slots=True)
class EmbeddedShard:
    """A shard whose features a GPU may still be computing.

    Its values are there when `copied` passes; on the CPU it is None.
    """

    task: ShardTask
    unprojected: Features
    copied: torch.cuda.Event | None
    bases: Bases

    def features(self) -> Features:
        """Wait for them and project them: what `StoreWriter.write_shard` takes."""
        if self.copied is not None:
            self.copied.synchronize()
        return project(self.unprojected, self.bases)


WRITERS: Final = 2
"""Threads that write shards: while one packs its numbers another waits for the disk. A worker of
dask has as many: while one runs the teacher another writes."""

_BATCHES_AHEAD: Final = 2
_MOST_READERS: Final = 16


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tile of one image, from which one pass makes all levels of an input scale."""

    task: ShardTask
    levels: tuple[str, ...]  # all of images as they are, or all of mirrored ones
    image_id: str
    shapes: Sequence[tuple[int, int, int]]  # of each level, (C, h, w) of the image's tokens
    tiles: Sequence[Tile]  # of each level, which part of them the teacher sees
    pixels: Future[Tensor]  # (3, side, side), the teacher's input, in the making
    siblings: int  # pieces that the image is cut into, at all levels of the task


def embed_shards(
    tasks: Iterable[ShardTask],
    *,
    config: EmbedConfig,
    encoder: Encoder,
    records: Mapping[str, ImageRecord],
    root: Path,
    bases: Bases = MappingProxyType({}),
    image_done: Callable[[], None] = lambda: None,
) -> Generator[EmbeddedShard, None, None]:
    """Embed the images of one shard after the other.

    Two batches of tiles are prepared ahead, also those of the next shard; memory holds these, one
    unfinished batch per pass and one shard's features; a GPU's holds only those of its images that
    are in the making. Until it is exhausted or closed it has threads, and `config.threads` holds.

    `records` are rows of the manifest by image id, whose paths start from `root`; `image_done` is
    called after each image. Levels without a basis stay as they are.

    Raises:
        DataError: for an image that is unreadable or not the one that the manifest describes.
    """
    # The CPU is busy encoding: one thread keeps it fed. A GPU outruns any single one.
    device, on_cpu = encoder.device, encoder.device.type == "cpu"
    count = 1 if on_cpu else min(_MOST_READERS, os.cpu_count() or 1)
    readers = ThreadPoolExecutor(count, "read")
    try:
        with cpu_threads(config.threads):
            images = ahead(_read_images(tasks, readers, records, root, device), count)
            pieces = ahead(_cut(images, readers, config), _BATCHES_AHEAD * config.batch_tiles)
            for task, of_task in groupby(pieces, lambda piece: piece.task):
                features: Features = {level: {} for level in task.levels}
                encoded = _encode(of_task, encoder, config.batch_tiles)
                for image_id, levels in _blend(encoded, device):
                    for level, values in levels.items():
                        own = values if level == upright(level) else values.flip(-1)
                        # Whatever the codec, it begins with this rounding.
                        rounded = own if on_cpu or upright(level) in bases else own.half()
                        features[level][image_id] = _to_host(rounded)
                    image_done()
                copied = None if on_cpu else torch.cuda.current_stream(device).record_event()
                yield EmbeddedShard(task, features, copied, bases)
    finally:
        readers.shutdown(cancel_futures=True)


def project(features: Features, bases: Bases) -> Features:
    """Project the levels that have a basis."""
    return {
        level: {i: bases[upright(level)].project(image) for i, image in images.items()}
        if upright(level) in bases
        else images
        for level, images in features.items()
    }


def tile_input(
    resized: Tensor,
    tile: Tile,
    *,
    stride: int,
    side_px: int,
    patch_px: int,
    mirrored_tok: int | None = None,
) -> Tensor:
    """Cut and normalise one tile, and make it the teacher's input, as `teacher_input` does.

    `resized` is (h, w, 3) uint8 RGB, on the device that is to do it; beyond it, but inside the
    working image, lies the mean colour (0). `mirrored_tok` is the width of the working image where
    the tile is one of its mirror image.
    """
    (y, x), (height, width) = tile.origin_tok, tile.size_tok
    if mirrored_tok is not None:
        x = mirrored_tok - x - width
    height_px, width_px = height * stride, width * stride
    inside = resized[y * stride :, x * stride :][:height_px, :width_px].permute(2, 0, 1)
    # Looked up, values are the student's to the bit on any device.
    values = _normalised(resized.device).gather(1, inside.flatten(1).long()).view(inside.shape)
    window = F.pad(values, (0, width_px - inside.shape[2], 0, height_px - inside.shape[1]))
    if mirrored_tok is not None:
        window = window.flip(-1)
    return teacher_input(window, stride=stride, side_px=side_px, patch_px=patch_px)


@cache
def _normalised(device: torch.device) -> Tensor:
    """Normalise each byte: (3, 256)."""
    every_byte = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    return torch.from_numpy(normalised_window(every_byte, 0, 0, 256, 1)[..., 0]).to(device)


def teacher_input(pixels: Tensor, *, stride: int, side_px: int, patch_px: int) -> Tensor:
    """Scale normalised pixels by patch/stride, and pad them with zeros.

    Scaling follows SSR: bilinear with align_corners=False on normalised values (spec section 4.1).
    Enlarging is not antialiased, as there; shrinking, which SSR never does, is.

    `pixels` are (3, H, W) float32, at most what the teacher sees at once, with `stride` of them to
    a token, which divides H and W; the teacher has `patch_px` to one.

    Returns:
        (3, side_px, side_px) float32, 0 right of and below the pixels.
    """
    if stride != patch_px:
        height, width = (side // stride * patch_px for side in pixels.shape[1:])
        pixels = F.interpolate(
            pixels[None],
            size=(height, width),
            mode="bilinear",
            align_corners=False,
            antialias=stride > patch_px,
        )[0]
    return F.pad(pixels, (0, side_px - pixels.shape[2], 0, side_px - pixels.shape[1]))


def add_tile(image: Tensor, tile: Tile, tokens: Tensor) -> None:
    """Add one tile to an image, in place; the weights of all tiles of a plan sum to 1.

    A token that only one tile covers becomes that tile's token bit for bit. `image` is (C, h, w)
    float32, 0 before the first tile; of `tokens` (C, t, t) what lies outside it is dropped.
    """
    (y, x), (height, width) = tile.origin_tok, tile.size_tok
    weights = _to_device(tile.weights, image.device)
    image[:, y : y + height, x : x + width] += weights * tokens[:, :height, :width]


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Send it without waiting for what the device is at."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def _to_host(tensor: Tensor) -> NDArray[Any]:
    """Queue its copy behind what a GPU is at; it is there when an event recorded later passes."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True).numpy()


def _read_images(
    tasks: Iterable[ShardTask],
    readers: ThreadPoolExecutor,
    records: Mapping[str, ImageRecord],
    root: Path,
    device: torch.device,
) -> Iterator[tuple[ShardTask, ImageRecord, Future[Tensor]]]:
    def read(record: ImageRecord) -> Tensor:
        return _to_device(resize_image(read_raw(record, root), record.resized_size_px), device)

    for task in tasks:
        for entry in filter(None, task.images):
            record = records[entry.image_id]
            yield task, record, readers.submit(read, record)


def _cut(
    images: Iterable[tuple[ShardTask, ImageRecord, Future[Tensor]]],
    readers: ThreadPoolExecutor,
    config: EmbedConfig,
) -> Iterator[_Piece]:
    offered = config.teacher.levels()

    def cut(image: Future[Tensor], tile: Tile, **frame: Any) -> Tensor:  # noqa: ANN401
        return tile_input(image.result(), tile, **frame)

    for task, record, resized in images:
        passes: dict[tuple[float, bool], tuple[str, ...]] = defaultdict(tuple)
        for level in task.levels:
            passes[offered[upright(level)].input_scale, level != upright(level)] += (level,)
        size_px = record.working_size_px
        plans = [
            [*zip(*(config.tiles(level, size_px) for level in levels), strict=True)]
            for levels in passes.values()
        ]
        siblings = sum(map(len, plans))
        for ((scale, mirrored), levels), plan in zip(passes.items(), plans, strict=True):
            shapes = []
            for level in levels:
                stride, channels, _ = offered[upright(level)]
                shapes.append((channels, size_px[0] // stride, size_px[1] // stride))
            stride = offered[upright(levels[0])].stride_px  # the pass takes pixels, in any tokens
            for tiles in plan:
                pixels = readers.submit(
                    cut,
                    resized,
                    tiles[0],
                    stride=stride,
                    side_px=config.teacher.side_px,
                    patch_px=round(stride * scale),
                    mirrored_tok=size_px[1] // stride if mirrored else None,
                )
                yield _Piece(task, levels, record.image_id, shapes, tiles, pixels, siblings)


def _batches(pieces: Iterable[_Piece], size: int) -> Iterator[list[_Piece]]:
    """Collect lists of `size` pieces of one pass, in order; at the end come shorter ones."""
    collecting: dict[tuple[str, ...], list[_Piece]] = defaultdict(list)
    for piece in pieces:
        collecting[piece.levels].append(piece)
        if len(collecting[piece.levels]) == size:
            yield collecting.pop(piece.levels)
    yield from collecting.values()


def _encode(
    pieces: Iterable[_Piece], encoder: Encoder, batch_tiles: int
) -> Iterator[tuple[_Piece, list[Tensor]]]:
    """Pair each piece with its tokens (C, t, t), level by level."""
    for batch in _batches(pieces, batch_tiles):
        levels = [*map(upright, batch[0].levels)]
        tokens = encoder.start([piece.pixels.result() for piece in batch], levels)
        for number, piece in enumerate(batch):
            yield piece, [tokens[level][number] for level in levels]


def _blend(
    pieces: Iterable[tuple[_Piece, list[Tensor]]], device: torch.device
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Add tiles up; yield the id of each image that is complete, and its levels (C, h, w)."""
    blended: dict[str, dict[str, Tensor]] = defaultdict(dict)
    done = Counter[str]()
    for piece, tokens in pieces:
        image = blended[piece.image_id]
        of_levels = zip(piece.levels, piece.shapes, piece.tiles, tokens, strict=True)
        for level, shape, tile, values in of_levels:
            if level not in image:
                image[level] = torch.zeros(shape, device=device)
            add_tile(image[level], tile, values)
        done[piece.image_id] += 1
        if done[piece.image_id] == piece.siblings:
            yield piece.image_id, blended.pop(piece.image_id)


def ahead(items: Iterable[_T], count: int) -> Iterator[_T]:
    """Draw items `count` steps before they are handed out.

    Where drawing an item starts work in another thread, that much work is under way or done.
    """
    source = iter(items)
    waiting = deque(islice(source, count))
    for item in source:
        waiting.append(item)
        yield waiting.popleft()
    yield from waiting


def run_serial(shards: Generator[_T, None, None], write: Callable[[_T], None]) -> None:
    """Write shards in other threads while this one makes the next.

    At most one shard waits to be written. What ends the run here, an interrupt too, lets shards
    that are made be written; what `write` raises ends it once the shards under way are written.
    """
    with closing(shards), ThreadPoolExecutor(WRITERS, "write") as threads:
        for writing in ahead((threads.submit(write, shard) for shard in shards), WRITERS):
            writing.result()
