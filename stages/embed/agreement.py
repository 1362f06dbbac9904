"""What the store costs: features that it serves against those of the teacher in the loop.

Arrays in, numbers out; which crops are compared is for the caller to say. `pipeline.online` does,
as only that layer knows both the teacher and training.
"""

# C channels, H W pixels of the crop, h w its tokens, N tokens

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.embed.config import EmbedConfig
from stages.embed.task import teacher_input
from stages.embed.teachers.teacher import Encoder
from stages.embed.tiling import Tile, blend, plan_tiles


@dataclass(frozen=True, slots=True)
class TokenErrors:
    """How features of one crop differ from those that they stand for.

    Attributes:
        cosines: (N,) between tokens at the same place.
        squared_error: sum over all numbers.
        squared_norm: of the features that they stand for.
    """

    cosines: NDArray[np.float32]
    squared_error: float
    squared_norm: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How features of many crops agree with those that they stand for.

    Attributes:
        crops: number of crops.
        cosine: mean over all tokens.
        cosine_low: one token in twenty is below.
        relative_error: norm of the difference over the norm of what they stand for.
    """

    crops: int
    cosine: float
    cosine_low: float
    relative_error: float

    @classmethod
    def of(cls, errors: Iterable[TokenErrors]) -> "Agreement":
        """Sum up crops."""
        every = list(errors)
        cosines = np.concatenate([crop.cosines for crop in every])
        error, norm = (sum(getattr(c, f"squared_{of}") for c in every) for of in ("error", "norm"))
        return cls(
            crops=len(every),
            cosine=float(cosines.mean(dtype=np.float64)),
            cosine_low=float(np.percentile(cosines, 5)),
            relative_error=float(np.sqrt(error / norm)),
        )


def token_errors(cached: NDArray[Any], online: NDArray[Any]) -> TokenErrors:
    """Compare features (C, h, w) of one crop: what the store serves, what the teacher says."""
    assert cached.shape == online.shape, (cached.shape, online.shape)
    served = cached.reshape(len(cached), -1).astype(np.float64)  # (C, N)
    wanted = online.reshape(len(online), -1).astype(np.float64)
    norms = np.linalg.norm(served, axis=0) * np.linalg.norm(wanted, axis=0)
    dots = (served * wanted).sum(axis=0)
    return TokenErrors(
        cosines=(dots / np.maximum(norms, np.finfo(np.float64).tiny)).astype(np.float32),
        squared_error=float(np.square(served - wanted).sum()),
        squared_norm=float(np.square(wanted).sum()),
    )


def encode_crop(
    crop: NDArray[np.float32], level: str, *, config: EmbedConfig, encoder: Encoder
) -> NDArray[np.float32]:
    """Encode a crop as SSR does in the loop: it is all that the teacher sees.

    It is scaled by patch/stride; what is smaller than the teacher's side then is padded with zeros
    at the right and below, what is larger is tiled and blended as stage one does it with images.

    Args:
        crop: (3, H, W) float32, normalised; may be mixed, jittered and blurred.
        level: of the teacher; its stride divides H and W.
        config: section `embed`.
        encoder: the loaded teacher.

    Returns:
        (C, H/stride, W/stride) float32.
    """
    stride, channels, scale = config.teacher.levels()[level]
    side_px, patch_px = config.teacher.side_px, round(stride * scale)
    height, width = (side // stride for side in crop.shape[1:])
    tiles = plan_tiles((height, width), side_px // patch_px, config.overlap)
    pixels = torch.from_numpy(crop)

    def tile_input(tile: Tile) -> Tensor:
        (y, x), (height, width) = tile.origin_tok, tile.size_tok
        cut = pixels[:, y * stride : (y + height) * stride, x * stride : (x + width) * stride]
        return teacher_input(cut, stride=stride, side_px=side_px, patch_px=patch_px)

    def tokens() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(tiles), config.batch_tiles):
            inputs = torch.stack([*map(tile_input, tiles[start : start + config.batch_tiles])])
            yield from encoder.encode(inputs, [level])[level].numpy()  # (C, t, t) each

    return blend(tiles, tokens(), (channels, height, width))
