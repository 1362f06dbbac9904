"""Comparison of stored features with those of the teacher in the loop, on crops of training.

Three differences to official SSR are measured apart (architecture.md): the crop that the teacher
would have seen alone, the mirrored crop, and the mixed, jittered and blurred image.
"""

# C channels, H W pixels of the crop, h w its tokens, N tokens

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.params import Params
from pipeline.stores import demand_provenance, is_same
from stages.embed.config import EmbedConfig
from stages.embed.format1 import require_weights
from stages.embed.task import teacher_input
from stages.embed.teachers.teacher import Encoder
from stages.embed.tiling import Tile, blend
from stages.prepare.geometry import flip
from stages.prepare.manifest import Domain, Manifest
from stages.train.adaptation.augment import augment
from stages.train.adaptation.mixing import class_mask, mix, mix_features
from stages.train.config import TrainConfig
from stages.train.crops import Sample, TrainingCrops
from stages.train.step import draw_step
from store.errors import ConfigError, SSRError
from store.files import Url, join
from store.header import Header
from store.index import Index
from store.read import FeatureReader

Kind = Literal["crop", "flip", "mix", "unrelated"]
Progress = Callable[[int, int, str], None]
Features = Mapping[str, NDArray[Any]]
"""Level -> (C, h, w)."""

_STAGES: Final = 4  # of the student; each can read one level


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


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the comparison; `unrelated` compares crops of two images, as a yardstick."""

    kind: Kind
    level: str
    agreement: Agreement


@dataclass(frozen=True)
class OnlineReport:
    """Cached against online features.

    Attributes:
        store: The store.
        rows: By kind and level.
        trained: False for an UNTRAINED TEACHER.
        without_mix: Why mixed images were not compared; None where they were.
    """

    store: Url
    rows: tuple[Row, ...]
    trained: bool
    without_mix: str | None

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        rows = [
            {"kind": row.kind, "level": row.level, **asdict(row.agreement)} for row in self.rows
        ]
        about = {"store": str(self.store), "trained": self.trained}
        return {**about, "rows": rows, "without_mix": self.without_mix}


def compare_online(
    params: Params,
    manifest: Manifest,
    *,
    store: Url,
    index_path: Path,
    crops: int,
    progress: Progress,
) -> OnlineReport:
    """Run the teacher on the first crops that training would draw, and compare.

    Args:
        params: All sections; the teacher's weights must be those that made the store.
        manifest: The images.
        store: The store.
        index_path: The index, which names the store of the other domain, for mixed images.
        crops: How many.
        progress: Called after each crop.

    Raises:
        ConfigError: If training draws no crops of the store's domain.
        StoreError: If the store is of another teacher, incomplete or damaged.
        CheckpointError: If the teacher's weights are missing or damaged.
        DataError: If an image changed since `ssr prepare`.
    """
    reader = FeatureReader(store)
    header = reader.header
    domain: Domain = "source" if header.spec.domain == "source" else "target"
    if domain == "target" and params.train.self_training is None:
        raise ConfigError("train.self_training is null: training draws no crops of the target")
    demand_provenance(params, header.spec.provenance, index_path, where=f"the store {store}")
    encoder = params.embed.load_encoder()
    require_weights(params.embed, encoder, header.spec)
    readers: dict[Domain, FeatureReader] = {domain: reader}
    without_mix = None
    try:
        readers |= _other(params, index_path, domain, store, header.levels)
    except SSRError as error:
        without_mix = str(error)
    skipped = {image_id for opened in readers.values() for image_id in opened.skipped()}
    config = _unflipped(params.train, header)
    data = TrainingCrops(
        config=config,
        manifest=manifest.without(skipped),
        roots=params.prepare.roots,
        readers=readers,
    )

    def encode(image: NDArray[np.float32], level: str) -> NDArray[np.float32]:
        return encode_crop(image, level, config=params.embed, encoder=encoder)

    errors: dict[tuple[Kind, str], list[TokenErrors]] = defaultdict(list)
    before: Features = {}
    for number in range(crops):
        sample = data[number]
        image, cached = _of(sample, domain)
        for level, features in cached.items():
            online = encode(image, level)
            errors["crop", level].append(token_errors(features, online))
            mirrored = token_errors(flip(features), encode(flip(image), level))
            errors["flip", level].append(mirrored)
            if level in before:
                errors["unrelated", level].append(token_errors(before[level], online))
        if without_mix is None:
            image, mixed = _mixed(sample, config, number)
            for level, features in mixed.items():
                errors["mix", level].append(token_errors(features, encode(image, level)))
        before = cached
        progress(number + 1, crops, header.spec.domain)
    return OnlineReport(store, tuple(_rows(errors)), params.embed.teacher.trained, without_mix)


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
    tiles = config.tiles(level, (crop.shape[1], crop.shape[2]))
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


def _of(sample: Sample, domain: Domain) -> tuple[NDArray[np.float32], Features]:
    if domain == "source":
        return sample["source_image"], sample["source_features"]
    return sample["target_image"], sample["target_features"]


def _mixed(
    sample: Sample, config: TrainConfig, number: int
) -> tuple[NDArray[np.float32], Features]:
    """Return ClassMix of a sample, a batch of one, as training makes it: image and features."""
    assert config.self_training is not None
    label = torch.from_numpy(sample["source_label"])[None].long()
    draws = draw_step(config, label, config.self_training.start + number)
    assert draws is not None
    mask = class_mask(label, draws.classes)
    source, target = (torch.from_numpy(_of(sample, d)[0])[None] for d in ("source", "target"))
    image = augment(mix(mask, source, target), draws.mixed)
    features = mix_features(mask, *(_batch(_of(sample, d)[1]) for d in ("source", "target")))
    return image[0].numpy(), {level: maps[0].numpy() for level, maps in features.items()}


def _batch(features: Features) -> dict[str, torch.Tensor]:
    return {level: torch.from_numpy(map_)[None].float() for level, map_ in features.items()}


def _other(
    params: Params, index_path: Path, domain: Domain, store: Url, levels: tuple[str, ...]
) -> dict[Domain, FeatureReader]:
    """Open the store of the other domain, that training mixes with this one."""
    if params.train.self_training is None:
        raise ConfigError("train.self_training is null")
    index, url = Index.read(index_path), params.store.location
    if domain not in index.stores or not is_same(store, join(url, index.stores[domain].path)):
        raise ConfigError(f"{index_path} names another store of the {domain}")
    other: Domain = "target" if domain == "source" else "source"
    if other not in index.stores:
        raise ConfigError(f"{index_path} names no store of the {other}")
    reader = FeatureReader(join(url, index.stores[other].path))
    missing = [level for level in levels if level not in reader.header.levels]
    if missing:
        raise ConfigError(f"the store of the {other} has no {', '.join(missing)}")
    return {other: reader}


def _unflipped(config: TrainConfig, header: Header) -> TrainConfig:
    """Draw training's crops, but never mirrored and at every level of the store."""
    read = (*header.levels, *[None] * (_STAGES - len(header.levels)))
    regularizer = config.regularizer.model_copy(update={"on": ("source", "mixed"), "levels": read})
    align_px = max(config.crop_align_px, *(header.spec.level(n).stride_px for n in header.levels))
    return config.model_copy(
        update={"flip_probability": 0.0, "regularizer": regularizer, "crop_align_px": align_px}
    )


def _rows(errors: Mapping[tuple[Kind, str], list[TokenErrors]]) -> Iterator[Row]:
    kinds: tuple[Kind, ...] = ("crop", "flip", "mix", "unrelated")
    for kind in kinds:
        for (of, level), crops in errors.items():
            if of == kind:
                yield Row(kind, level, Agreement.of(crops))
