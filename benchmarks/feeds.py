"""Teacher features that come from no store of ours: other images', or SAM's own in every step."""

from collections.abc import Mapping
from typing import Final, Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from pipeline.params import Params
from stages.embed.teachers.encoder import Encoder
from stages.train.crops import Batch, Sample
from stages.train.step import STORED, Feed, mix_stored

FeedName = Literal["stored", "shuffled", "online"]
"""`stored` is the pipeline's; `shuffled`: each crop gets the stored features of another;
`online`: the teacher sees every crop, mixed and augmented ones as they are, as in official SSR."""

_APART: Final = 1_000_003
"""Between the samples that exchange features: more than any run draws."""


def feed_of(name: FeedName, params: Params) -> Feed:
    """Return a feed.

    Args:
        name: Which one.
        params: Say which teacher and levels.
    """
    match name:
        case "stored":
            return STORED
        case "shuffled":
            return Feed(name, Shuffled, mix_stored)
        case "online":
            online = Online(params.embed.load_encoder(), params.train.regularizer.used_levels)
            return Feed(name, online.samples, online.mixer)
    assert_never(name)


class Shuffled(Dataset[Sample]):
    """Samples with features and labels of others, which other images and places belong to.

    Args:
        crops: Samples with their own features.
    """

    def __init__(self, crops: Dataset[Sample]) -> None:
        self._crops = crops

    def __getitem__(self, index: int) -> Sample:
        sample, other = self._crops[index], self._crops[index + _APART]
        levels = ("source_features", "target_features")
        if any(sample[name].keys() - other[name].keys() for name in levels):
            other = self._crops[abs(index - 1)]  # of distillation, as this one
        sample |= {name: other[name] for name in levels}
        if "target_probabilities" in other:
            sample["target_probabilities"] = other["target_probabilities"]
        return sample


class Online:
    """The teacher in the loop: what it makes of each crop, of source, target and their mixture.

    Args:
        teacher: Sees every crop scaled to its whole input, as official SSR's sees 512 px at 1024.
        levels: That training reads: all the same here, whatever the stride in their names.
    """

    def __init__(self, teacher: Encoder, levels: tuple[str, ...]) -> None:
        self._teacher, self._levels = teacher, levels

    def samples(self, crops: Dataset[Sample]) -> Dataset[Sample]:
        """Replace the stored features of crops."""
        return _OnlineSamples(crops, self)

    def mixer(self, _: Tensor, mixed: Tensor, __: Batch) -> Mapping[str, Tensor]:
        """Encode the mixed images, level -> (B, C, t, t)."""
        return self.encode(mixed)

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Encode normalised square images (B, 3, S, S), level -> (B, C, t, t)."""
        size = (self._teacher.side_px, self._teacher.side_px)
        scaled = F.interpolate(images, size, mode="bilinear", align_corners=False)
        tokens = self._teacher.encode(scaled, ["all"])[
            "all"
        ].clone()  # autograd cannot keep inference tensors
        return dict.fromkeys(self._levels, tokens)


class _OnlineSamples(Dataset[Sample]):
    def __init__(self, crops: Dataset[Sample], online: Online) -> None:
        self._crops, self._online = crops, online

    def __getitem__(self, index: int) -> Sample:
        sample = self._crops[index]
        sample["source_features"] = self._encode(sample["source_image"])
        sample["target_features"] = self._encode(sample["target_image"])
        return sample

    def _encode(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float16]]:
        images = torch.from_numpy(np.ascontiguousarray(image))[None]
        return {
            level: tokens[0].numpy().astype(np.float16)
            for level, tokens in self._online.encode(images).items()
        }
