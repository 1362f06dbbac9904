"""What training from a store costs: its features against the teacher's own of training crops.

Three differences to official SSR are measured apart (architecture.md): the crop that the teacher
would have seen alone, the mirrored crop, and the mixed, jittered and blurred image.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.params import Params
from pipeline.stores import demand_provenance, is_same
from stages.embed.agreement import Agreement, TokenErrors, encode_crop, token_errors
from stages.embed.format1 import require_weights
from stages.prepare.geometry import flip
from stages.prepare.manifest import Domain, Manifest
from stages.train.adaptation.augment import augment
from stages.train.adaptation.mixing import class_mask, mix, mix_features
from stages.train.config import TrainConfig
from stages.train.crops import Sample, TrainingCrops
from stages.train.draws import draw_step
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
