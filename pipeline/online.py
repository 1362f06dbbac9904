"""Comparison of stored features with those of the teacher in the loop, on crops of training.

Two differences to official SSR are measured apart: the crop that the teacher would have seen alone,
and the mirrored crop.
"""

# C channels, H W pixels of the crop, h w its tokens, N tokens

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.project import Project
from stages.embed.config import EmbedConfig
from stages.embed.stores import require_provenance, require_weights
from stages.embed.task import add_tile, teacher_input
from stages.embed.teachers.encoder import Encoder
from stages.embed.tiling import Tile
from stages.prepare.geometry import flip
from stages.prepare.manifest import Domain
from stages.train.crops import TrainingCrops
from stages.train.monitor import STAGES
from store.errors import ConfigError
from store.files import Url
from store.read import FeatureReader
from store.spec import FLIPPED, upright

Kind = Literal["crop", "flip", "stored flip"]
"""`flip` mirrors what is stored of images as they are, `stored flip` what is of mirrored ones."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How stored features of many crops agree with those that they stand for."""

    kind: Kind
    level: str
    crops: int
    cosine: float  # mean over all tokens
    cosine_low: float  # one token in twenty is below
    relative_error: float  # norm of the difference over that of what they stand for


def compare_online(
    project: Project, *, store: Url, crops: int, progress: Callable[[int, int, str], None]
) -> list[Agreement]:
    """Run the teacher on the first crops that training would draw, and compare.

    Raises:
        ConfigError: If training draws no crops of the store's domain.
        StoreError: If the store is of another teacher, incomplete or damaged.
        CheckpointError: If the teacher's weights are missing or damaged.
        DataError: If an image changed since `ssr prepare`.
    """
    params, manifest, reader = project.params, project.manifest, FeatureReader(store)
    spec, levels = reader.header.spec, reader.header.levels
    if spec.domain == "restyled":
        raise ConfigError(f"{store}: is of restyled images: give the store of the source")
    domain: Domain = "source" if spec.domain == "source" else "target"
    if domain == "target" and params.train.self_training is None:
        raise ConfigError("train.self_training is null: training draws no crops of the target")
    projection, where = params.store.projection, f"the store {store}"
    require_provenance(params.embed, projection, spec.provenance, where=where)
    encoder = params.embed.load_encoder()
    require_weights(params.embed, encoder, spec)
    # training's crops, but never mirrored and at every level of the store
    read = (*levels, *[None] * (STAGES - len(levels)))
    align_px = max(params.train.crop_align_px, *(spec.level(name).stride_px for name in levels))
    reads = {"on": ("source", "mixed"), "levels": read}
    changes = {
        "flip_probability": 0.0,
        "regularizer": params.train.regularizer.model_copy(update=reads),
        "crop_align_px": align_px,
        "distill": None,
        "restyled": None,
    }
    data = TrainingCrops(
        config=params.train.model_copy(update=changes),
        manifest=manifest,
        roots=project.workspace.roots,
        readers={domain: reader},
    )
    bases = reader.header.bases

    def online(crop: NDArray[np.float32], level: str) -> NDArray[np.float32]:
        features = encode_crop(crop, level, config=params.embed, encoder=encoder)
        return bases[level].project(features) if level in bases else features

    errors: dict[tuple[Kind, str], list[NDArray[np.float64]]] = defaultdict(list)
    for number in range(crops):
        sample: Mapping[str, Any] = data[number]
        image, cached = sample[f"{domain}_image"], sample[f"{domain}_features"]
        for level, features in cached.items():
            if level != upright(level):
                continue
            wanted, mirrored = online(image, level), online(flip(image), level)
            errors["crop", level].append(token_errors(features, wanted))
            errors["flip", level].append(token_errors(flip(features), mirrored))
            if (own := cached.get(level + FLIPPED)) is not None:
                errors["stored flip", level].append(token_errors(flip(own), mirrored))
        progress(number + 1, crops, spec.domain)
    rows = []
    for (kind, level), each in sorted(errors.items(), key=lambda item: item[0][0]):
        cosines, error, norm = np.concatenate(each, axis=1)
        relative = float(np.sqrt(error.sum() / norm.sum()))
        low = float(np.percentile(cosines, 5))
        rows.append(Agreement(kind, level, len(each), float(cosines.mean()), low, relative))
    return rows


def token_errors(cached: NDArray[Any], online: NDArray[Any]) -> NDArray[np.float64]:
    """Compare what the store serves with what the teacher says, each (C, h, w) of one crop.

    Returns:
        (3, N): of each token the cosine, and the squared norms of the error and of the teacher's.
    """
    served, wanted = (each.reshape(len(each), -1).astype(float) for each in (cached, online))
    norms = np.linalg.norm(served, axis=0) * np.linalg.norm(wanted, axis=0)
    cosines = (served * wanted).sum(axis=0) / np.maximum(norms, np.finfo(float).tiny)
    squares = (np.square(each).sum(axis=0) for each in (served - wanted, wanted))
    return np.stack([cosines, *squares])


def encode_crop(
    crop: NDArray[np.float32], level: str, *, config: EmbedConfig, encoder: Encoder
) -> NDArray[np.float32]:
    """Encode a crop as SSR does in the loop: it is all that the teacher sees.

    It is scaled by patch/stride; what is smaller than the teacher's side then is padded with zeros
    at the right and below, what is larger is tiled and blended as stage one does it with images.
    A normalised crop (3, H, W), whose sides the level's stride divides, gives (C, h, w).
    """
    stride, channels, scale = config.teacher.levels()[level]
    side_px, patch_px = config.teacher.side_px, round(stride * scale)
    height, width = (side // stride for side in crop.shape[1:])
    tiles = config.tiles(level, (crop.shape[1], crop.shape[2]))
    pixels = torch.from_numpy(crop)

    def tile_input(tile: Tile) -> Tensor:
        (y, x), (height, width) = tile.origin_tok, tile.size_tok
        cut = pixels[:, y * stride : (y + height) * stride, x * stride : (x + width) * stride]
        return teacher_input(cut, stride=stride, side_px=side_px, patch_px=patch_px)

    features = torch.zeros(channels, height, width)
    for start in range(0, len(tiles), config.batch_tiles):
        batch = tiles[start : start + config.batch_tiles]
        encoded = encoder.encode(torch.stack([*map(tile_input, batch)]), [level])[level]
        for tile, tokens in zip(batch, encoded, strict=True):  # (C, t, t)
            add_tile(features, tile, tokens)
    return features.numpy()
