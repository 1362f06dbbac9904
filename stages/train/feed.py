"""Where the teacher's features come from: the store, unless an experiment feeds others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from torch.utils.data import Dataset

from stages.train.crops import Sample
from stages.train.step import FeatureMixer, mix_stored


@dataclass(frozen=True)
class Feed:
    """Source of the teacher's features.

    Attributes:
        name: Part of the run's fingerprint: a checkpoint is not resumed with other features.
        samples: Crops with stored features -> crops with those of this feed.
        mixer: Makes the teacher features of the mixed images.
    """

    name: str
    samples: Callable[[Dataset[Sample]], Dataset[Sample]]
    mixer: FeatureMixer


STORED: Final = Feed("stored", lambda crops: crops, mix_stored)
"""What the store holds, mixed as the pixels are: the pipeline's way, and the only one of `ssr`."""
