"""From shard tasks to features: read, cut, encode, blend, all at the same time.

    reader threads:  read and resize image 7 | cut, normalise and scale its tiles
    this thread:     encode a batch of tiles | blend the batch before into images
    writer thread:   (`run_serial`) write the shard before

A batch takes tiles of several images, but at one input scale and orientation of one shard: in
whichever run, order and company that comes to be made, its batches are the same, and so are its
bytes.
"""

# B tiles, C channels, H W working pixels, h w tokens

import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.embed.config import EmbedConfig
from stages.embed.teachers.teacher import Encoder
from stages.embed.tiling import Tile, add_tile
from stages.prepare.geometry import flip
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import normalised_window, read_raw, resize_image
from store.basis import Bases
from store.shard_writer import ShardTask
from store.spec import upright

_T = TypeVar("_T")

Features = dict[str, dict[str, NDArray[np.float32]]]
"""level -> image id -> (C, h, w)"""


class EmbeddedShard(NamedTuple):
    """What `StoreWriter.write_shard` takes.

    Attributes:
        task: the shard.
        features: of each of its levels and images, (C, h, w) float32.
    """

    task: ShardTask
    features: Features


_BATCHES_AHEAD: Final = 2
_MOST_READERS: Final = 16


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tile of one image, from which one pass makes all levels of an input scale.

    Attributes:
        task: the shard that it belongs to.
        levels: what the pass makes, all of images as they are or all of mirrored ones.
        image_id: the image.
        shapes: of each level, (C, h, w) of the image's tokens.
        tiles: of each level, which part of them, in the frame of what the teacher sees.
        pixels: (3, side, side), the teacher's input, in the making.
        siblings: pieces that the image is cut into, at all levels of the task.
    """

    task: ShardTask
    levels: tuple[str, ...]
    image_id: str
    shapes: tuple[tuple[int, int, int], ...]
    tiles: tuple[Tile, ...]
    pixels: Future[Tensor]
    siblings: int


def embed_shards(
    tasks: Iterable[ShardTask],
    *,
    config: EmbedConfig,
    encoder: Encoder,
    records: Mapping[str, ImageRecord],
    root: Path,
    image_done: Callable[[], None],
    bases: Bases,
) -> Generator[EmbeddedShard, None, None]:
    """Embed the images of one shard after the other.

    Two batches of tiles are prepared ahead, also those of the next shard; memory holds these, one
    unfinished batch per pass and one shard's features. Close the generator to end its threads.

    Args:
        tasks: which images and levels.
        config: section `embed`.
        encoder: the loaded teacher, which embeds them.
        records: manifest rows by image id, for at least the images of the tasks.
        root: folder of the domain that the records' paths start from.
        image_done: called after each image.
        bases: what levels are projected by; others stay as they are.

    Yields:
        The shard of each task.

    Raises:
        DataError: for an image that is unreadable or not the one that the manifest describes.
    """
    # The CPU is busy encoding: one thread keeps it fed. A GPU outruns any single one.
    on_cpu = encoder.device.type == "cpu"
    count = 1 if on_cpu else min(_MOST_READERS, os.cpu_count() or 1)
    readers = ThreadPoolExecutor(count, "read")
    try:
        images = ahead(_read_images(tasks, readers, records, root), count)
        pieces = ahead(_cut(images, readers, config, encoder), _BATCHES_AHEAD * config.batch_tiles)
        for task, of_task in groupby(pieces, lambda piece: piece.task):
            features: Features = {level: {} for level in task.levels}
            pieces_done = Counter[str]()
            for piece, tokens in _encode(of_task, encoder, config.batch_tiles):
                of_levels = zip(piece.levels, piece.shapes, piece.tiles, tokens, strict=True)
                for level, shape, tile, values in of_levels:
                    of_level = features[level]
                    if piece.image_id not in of_level:
                        of_level[piece.image_id] = np.zeros(shape, np.float32)
                    image = of_level[piece.image_id]
                    add_tile(image if level == upright(level) else image[..., ::-1], tile, values)
                pieces_done[piece.image_id] += 1
                if pieces_done[piece.image_id] == piece.siblings:
                    image_done()
            yield EmbeddedShard(task, project(features, bases))
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
    resized: NDArray[np.uint8],
    tile: Tile,
    *,
    stride: int,
    side_px: int,
    patch_px: int,
    mirrored_tok: int | None = None,
) -> Tensor:
    """Cut and normalise one tile, and make it the teacher's input.

    Args:
        resized: (h, w, 3) uint8 RGB.
        tile: which part; beyond `resized` but inside the working image lies the mean colour (0).
        stride: working pixels per token.
        side_px: side of the teacher's input.
        patch_px: the teacher's pixels per token.
        mirrored_tok: width of the working image where the tile is one of its mirror image.

    Returns:
        (3, side_px, side_px) float32, 0 right of and below the working image.
    """
    (y, x), (height, width) = tile.origin_tok, tile.size_tok
    if mirrored_tok is not None:
        x = mirrored_tok - x - width
    window = normalised_window(resized, y * stride, x * stride, height * stride, width * stride)
    if mirrored_tok is not None:
        window = flip(window)
    return teacher_input(
        torch.from_numpy(window), stride=stride, side_px=side_px, patch_px=patch_px
    )


def teacher_input(pixels: Tensor, *, stride: int, side_px: int, patch_px: int) -> Tensor:
    """Scale normalised pixels by patch/stride, and pad them with zeros.

    Scaling follows SSR: bilinear with align_corners=False on normalised values (spec section 4.1).
    Enlarging is not antialiased, as there; shrinking, which SSR never does, is.

    Args:
        pixels: (3, H, W) float32, at most what the teacher sees at once.
        stride: working pixels per token, divides H and W.
        side_px: side of the teacher's input.
        patch_px: the teacher's pixels per token.

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


def _read_images(
    tasks: Iterable[ShardTask],
    readers: ThreadPoolExecutor,
    records: Mapping[str, ImageRecord],
    root: Path,
) -> Iterator[tuple[ShardTask, ImageRecord, Future[NDArray[np.uint8]]]]:
    def read(record: ImageRecord) -> NDArray[np.uint8]:
        return resize_image(read_raw(record, root), record.resized_size_px)

    for task in tasks:
        for entry in filter(None, task.images):
            record = records[entry.image_id]
            yield task, record, readers.submit(read, record)


def _cut(
    images: Iterable[tuple[ShardTask, ImageRecord, Future[NDArray[np.uint8]]]],
    readers: ThreadPoolExecutor,
    config: EmbedConfig,
    encoder: Encoder,
) -> Iterator[_Piece]:
    side_px = config.teacher.side_px
    offered = config.teacher.levels()

    def cut(
        resized: Future[NDArray[np.uint8]],
        tile: Tile,
        stride: int,
        patch_px: int,
        mirrored_tok: int | None,
    ) -> Tensor:
        pixels = tile_input(
            resized.result(),
            tile,
            stride=stride,
            side_px=side_px,
            patch_px=patch_px,
            mirrored_tok=mirrored_tok,
        )
        return pixels.pin_memory() if encoder.device.type == "cuda" else pixels

    for task, record, resized in images:
        passes: dict[tuple[float, bool], list[str]] = {}
        for level in task.levels:
            scale = offered[upright(level)].input_scale
            passes.setdefault((scale, level != upright(level)), []).append(level)
        plans = {
            key: [config.tiles(level, record.working_size_px) for level in levels]
            for key, levels in passes.items()
        }
        siblings = sum(len(of_levels[0]) for of_levels in plans.values())
        height, width = record.working_size_px
        for (scale, mirrored), levels in passes.items():
            strides = [offered[upright(level)].stride_px for level in levels]
            shapes = tuple(
                (offered[upright(level)].channels, height // stride, width // stride)
                for level, stride in zip(levels, strides, strict=True)
            )
            patch_px = round(strides[0] * scale)
            mirrored_tok = width // strides[0] if mirrored else None
            for tiles in zip(*plans[scale, mirrored], strict=True):
                pixels = readers.submit(cut, resized, tiles[0], strides[0], patch_px, mirrored_tok)
                yield _Piece(task, tuple(levels), record.image_id, shapes, tiles, pixels, siblings)


def _encode(
    pieces: Iterable[_Piece], encoder: Encoder, batch_tiles: int
) -> Iterator[tuple[_Piece, list[NDArray[np.float32]]]]:
    """Pair each piece with its tokens (C, t, t), level by level."""
    started = (
        (
            batch,
            encoder.start(
                [piece.pixels.result() for piece in batch], [*map(upright, batch[0].levels)]
            ),
        )
        for batch in batches(pieces, batch_tiles, lambda piece: " ".join(piece.levels))
    )
    # While the caller blends one batch a GPU works on the next.
    for batch, wait in ahead(started, 0 if encoder.device.type == "cpu" else 1):
        tokens = wait()
        for number, piece in enumerate(batch):
            yield piece, [tokens[upright(level)][number].numpy() for level in piece.levels]


def ahead(items: Iterable[_T], count: int) -> Iterator[_T]:
    """Draw items `count` steps before they are handed out.

    Where drawing an item starts work in another thread, that much work is under way or done.

    Args:
        items: drawn in order and from this thread only.
        count: how far ahead, at least 0.
    """
    source = iter(items)
    waiting = deque(islice(source, count))
    for item in source:
        waiting.append(item)
        yield waiting.popleft()
    yield from waiting


def batches(items: Iterable[_T], size: int, kind: Callable[[_T], str]) -> Iterator[list[_T]]:
    """Collect lists of `size` items of one kind, in order; at the end come shorter ones."""
    collecting: dict[str, list[_T]] = {}
    for item in items:
        batch = collecting.setdefault(kind(item), [])
        batch.append(item)
        if len(batch) == size:
            yield collecting.pop(kind(item))
    yield from collecting.values()


def run_serial(shards: Iterable[_T], write: Callable[[_T], None]) -> None:
    """Write each shard in a second thread while this one makes the next.

    At most one shard waits to be written. What ends the run here, an interrupt too, lets the
    shard that is being written be finished.

    Args:
        shards: made when drawn.
        write: writes one.

    Raises:
        Exception: what `shards` or `write` raises.
    """
    with ThreadPoolExecutor(1, "write") as thread:
        writing: Future[None] | None = None
        for shard in shards:
            if writing:
                writing.result()
            writing = thread.submit(write, shard)
        if writing:
            writing.result()
