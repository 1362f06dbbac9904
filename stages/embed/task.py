"""One task: the tokens of all images of one shard, at the levels that it lacks."""

# B tiles, C channels, H W working pixels, h w tokens

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.embed.teacher import Teacher
from stages.embed.tiling import Tile, blend, plan_tiles
from stages.prepare.geometry import Size
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import normalised_window, resize_image
from stages.prepare.reading import read_raw
from store.spec import stride_of
from store.write import ShardTask

Features = dict[str, dict[str, NDArray[np.float32]]]
"""level -> image id -> (C, h, w)"""


def embed_shard(
    task: ShardTask,
    *,
    teacher: Teacher,
    records: Mapping[str, ImageRecord],
    root: Path,
    overlap: float,
    batch_tiles: int,
    image_done: Callable[[], None],
) -> Features:
    """Embed the images of one shard.

    Args:
        task: which images and levels.
        teacher: what embeds them.
        records: manifest rows by image id, for at least the images of the task.
        root: folder of the domain that the records' paths start from.
        overlap: least overlap of tiles as a share of the tile.
        batch_tiles: most tiles per forward pass.
        image_done: called after each image.

    Returns:
        For each level of the task and each image: (C, h, w) float32.

    Raises:
        DataError: for an image that is unreadable or not the one that the manifest describes.
    """
    features: Features = {level: {} for level in task.levels}
    for entry in task.images:
        if entry is None:
            continue
        record = records[entry.image_id]
        resized = resize_image(read_raw(record, root), record.resized_size_px)
        for level in task.levels:
            features[level][entry.image_id] = embed_image(
                resized,
                record.working_size_px,
                stride=stride_of(level),
                teacher=teacher,
                overlap=overlap,
                batch_tiles=batch_tiles,
            )
        image_done()
    return features


def embed_image(
    resized: NDArray[np.uint8],
    working_px: Size,
    *,
    stride: int,
    teacher: Teacher,
    overlap: float,
    batch_tiles: int,
) -> NDArray[np.float32]:
    """Embed one image at one level.

    Args:
        resized: (h, w, 3) uint8 RGB.
        working_px: its padded size, a multiple of `stride`.
        stride: working pixels per token.
        teacher: what embeds it.
        overlap: least overlap of tiles as a share of the tile.
        batch_tiles: most tiles per forward pass.

    Returns:
        (C, H/stride, W/stride) float32.
    """
    height, width = (side // stride for side in working_px)
    tiles = plan_tiles((height, width), teacher.side_px // teacher.patch_px, overlap)
    tokens = _encode(resized, tiles, stride, teacher, batch_tiles)
    return blend(tiles, tokens, (teacher.channels, height, width))


def tile_input(
    resized: NDArray[np.uint8], tile: Tile, *, stride: int, side_px: int, patch_px: int
) -> Tensor:
    """Cut, normalise and scale one tile, and pad it to the teacher's input.

    Scaling follows SSR: bilinear with align_corners=False on normalised values (spec section 4.1).
    Enlarging is not antialiased, as there; shrinking, which SSR never does, is.

    Args:
        resized: (h, w, 3) uint8 RGB.
        tile: which part; beyond `resized` but inside the working image lies the mean colour (0).
        stride: working pixels per token.
        side_px: side of the teacher's input.
        patch_px: the teacher's pixels per token.

    Returns:
        (3, side_px, side_px) float32, 0 right of and below the working image.
    """
    (y, x), (height, width) = tile.origin_tok, tile.size_tok
    window = normalised_window(resized, y * stride, x * stride, height * stride, width * stride)
    pixels = torch.from_numpy(window)  # (3, H, W)
    if stride != patch_px:
        pixels = F.interpolate(
            pixels[None],
            size=(height * patch_px, width * patch_px),
            mode="bilinear",
            align_corners=False,
            antialias=stride > patch_px,
        )[0]
    return F.pad(pixels, (0, side_px - pixels.shape[2], 0, side_px - pixels.shape[1]))


def _encode(
    resized: NDArray[np.uint8],
    tiles: Sequence[Tile],
    stride: int,
    teacher: Teacher,
    batch_tiles: int,
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(tiles), batch_tiles):
        inputs = [
            tile_input(
                resized, tile, stride=stride, side_px=teacher.side_px, patch_px=teacher.patch_px
            )
            for tile in tiles[start : start + batch_tiles]
        ]
        yield from teacher.encode(torch.stack(inputs)).numpy()  # (C, t, t) each
