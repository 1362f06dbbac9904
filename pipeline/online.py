"""Comparison of stored features with those of the teacher in the loop, on crops of training.

Three differences to official SSR are measured apart: the crop that the teacher
would have seen alone, the mirrored crop, and the mixed, jittered and blurred image.
"""

# C channels, H W pixels of the crop, h w its tokens, N tokens

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from pipeline.checks import is_same, require_provenance
from pipeline.params import Params
from stages.embed.config import EmbedConfig
from stages.embed.format1 import require_weights
from stages.embed.task import blend, teacher_input
from stages.embed.teachers.teacher import Encoder
from stages.embed.tiling import Tile
from stages.prepare.geometry import flip
from stages.prepare.manifest import Domain, Manifest
from stages.train.adaptation.augment import augment
from stages.train.adaptation.mixing import class_mask, mix, mix_features
from stages.train.crops import TrainingCrops
from stages.train.monitor import STAGES
from stages.train.step import draw_step
from store.errors import ConfigError, SSRError
from store.files import Url, join
from store.index import Index
from store.read import FeatureReader
from store.spec import FLIPPED, upright

Kind = Literal["crop", "flip", "stored flip", "mix", "unrelated"]
Errors = tuple[NDArray[np.float32], float, float]
"""Of one crop: cosines (N,) of tokens at the same place, squared norms of error and features."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How stored features of many crops agree with those that they stand for.

    Attributes:
        kind: Of the crops; `flip` mirrors what is stored of images as they are, `stored flip` what
            is of mirrored ones; `unrelated` compares crops of two images, as a yardstick.
        cosine: Mean over all tokens.
        cosine_low: One token in twenty is below.
        relative_error: Norm of the difference over the norm of what they stand for.
    """

    kind: Kind
    level: str
    crops: int
    cosine: float
    cosine_low: float
    relative_error: float

    @classmethod
    def of(cls, kind: Kind, level: str, crops: Sequence[Errors]) -> "Agreement":
        """Sum up crops."""
        cosines = np.concatenate([each for each, _, _ in crops])
        error, norm = sum(each for _, each, _ in crops), sum(each for _, _, each in crops)
        cosine, low = float(cosines.mean(dtype=np.float64)), float(np.percentile(cosines, 5))
        return cls(kind, level, len(crops), cosine, low, float(np.sqrt(error / norm)))


@dataclass(frozen=True)
class OnlineReport:
    """Cached against online features; why mixed images were not compared, or None."""

    store: str
    trained: bool
    rows: tuple[Agreement, ...]
    without_mix: str | None


def compare_online(
    params: Params,
    manifest: Manifest,
    *,
    store: Url,
    index_path: Path,
    crops: int,
    progress: Callable[[int, int, str], None],
) -> OnlineReport:
    """Run the teacher on the first crops that training would draw, and compare.

    The teacher's weights must be those that made the store. The index names the store of the other
    domain, for mixed images. Progress is called after each crop.

    Raises:
        ConfigError: If training draws no crops of the store's domain.
        StoreError: If the store is of another teacher, incomplete or damaged.
        CheckpointError: If the teacher's weights are missing or damaged.
        DataError: If an image changed since `ssr prepare`.
    """
    reader = FeatureReader(store)
    spec, levels = reader.header.spec, reader.header.levels
    domain: Domain = "source" if spec.domain == "source" else "target"
    if domain == "target" and params.train.self_training is None:
        raise ConfigError("train.self_training is null: training draws no crops of the target")
    require_provenance(params, spec.provenance, index_path, where=f"the store {store}")
    encoder = params.embed.load_encoder()
    require_weights(params.embed, encoder, spec)
    readers: dict[Domain, FeatureReader] = {domain: reader}
    without_mix = None
    try:
        readers |= _other(params, index_path, domain, store, levels)
    except SSRError as error:
        without_mix = str(error)
    # training's crops, but never mirrored and at every level of the store
    read = (*levels, *[None] * (STAGES - len(levels)))
    align_px = max(params.train.crop_align_px, *(spec.level(name).stride_px for name in levels))
    regularizer = params.train.regularizer.model_copy(
        update={"on": ("source", "mixed"), "levels": read}
    )
    config = params.train.model_copy(
        update={
            "flip_probability": 0.0,
            "regularizer": regularizer,
            "crop_align_px": align_px,
            "distill": None,
        }
    )
    data = TrainingCrops(
        config=config,
        manifest=manifest.without({name for each in readers.values() for name in each.skipped()}),
        roots=params.prepare.roots,
        readers=readers,
    )

    bases = reader.header.bases

    def online(crop: NDArray[np.float32], level: str) -> NDArray[np.float32]:
        features = encode_crop(crop, level, config=params.embed, encoder=encoder)
        return bases[level].project(features) if level in bases else features

    errors: dict[tuple[Kind, str], list[Errors]] = defaultdict(list)
    before: Mapping[str, NDArray[Any]] = {}
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
            if level in before:
                errors["unrelated", level].append(token_errors(before[level], wanted))
        before = cached
        if without_mix is None and config.self_training is not None:  # ClassMix, as training has it
            batch = default_collate([sample])
            label = batch["source_label"].long()
            draws = draw_step(config, label, config.self_training.start + number)
            assert draws is not None
            mask = class_mask(label, draws.classes)
            mixed = mix(mask, batch["source_image"], batch["target_image"])
            image = augment(mixed, draws.mixed)[0].numpy()
            both = (batch["source_features"], batch["target_features"])
            maps = mix_features(mask, *({k: v.float() for k, v in each.items()} for each in both))
            for level in filter(lambda name: name == upright(name), maps):
                crop = token_errors(maps[level][0].numpy(), online(image, level))
                errors["mix", level].append(crop)
        progress(number + 1, crops, spec.domain)
    rows = [Agreement.of(*key, errors[key]) for key in sorted(errors, key=itemgetter(0))]
    return OnlineReport(str(store), params.embed.teacher.trained, tuple(rows), without_mix)


def token_errors(cached: NDArray[Any], online: NDArray[Any]) -> Errors:
    """Compare features (C, h, w) of one crop: what the store serves, what the teacher says."""
    assert cached.shape == online.shape, (cached.shape, online.shape)
    served, wanted = (each.reshape(len(each), -1).astype(float) for each in (cached, online))
    norms = np.linalg.norm(served, axis=0) * np.linalg.norm(wanted, axis=0)
    cosines = (served * wanted).sum(axis=0) / np.maximum(norms, np.finfo(float).tiny)
    error, norm = np.square(served - wanted).sum(), np.square(wanted).sum()
    return cosines.astype(np.float32), float(error), float(norm)


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

    def tokens() -> Iterator[Tensor]:
        for start in range(0, len(tiles), config.batch_tiles):
            inputs = torch.stack([*map(tile_input, tiles[start : start + config.batch_tiles])])
            yield from encoder.encode(inputs, [level])[level]  # (C, t, t) each

    return blend(tiles, tokens(), (channels, height, width)).numpy()


def _other(
    params: Params, index_path: Path, domain: Domain, store: Url, levels: tuple[str, ...]
) -> dict[Domain, FeatureReader]:
    """Open the store of the other domain, that training mixes with this one."""
    if params.train.self_training is None:
        raise ConfigError("train.self_training is null")
    entries = Index.read(index_path).stores.items()
    urls = {name: join(params.store.location, entry.path) for name, entry in entries}
    other: Domain = "target" if domain == "source" else "source"
    if not {domain, other} <= urls.keys() or not is_same(store, urls[domain]):
        raise ConfigError(f"{index_path} names another store of the {domain}, or no {other}")
    reader = FeatureReader(urls[other])
    if not {*levels} <= {*reader.header.levels}:
        raise ConfigError(f"the store of the {other} has not all of {', '.join(levels)}")
    return {other: reader}
