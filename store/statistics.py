"""Per-channel statistics that merge exactly: counts, sums and extremes in float64."""

# C channels, N tokens

from collections.abc import Iterable
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

_Numbers: TypeAlias = tuple[Annotated[float, Field(ge=-1e100, le=1e100)], ...]
"""Finite, as are the squares of their sums over all shards that there can be."""


class ChannelStatistics(BaseModel):
    """Count, sums and extremes of each channel over valid tokens.

    Attributes:
        count: Tokens that were counted, the same for all channels.
        sum: Sum per channel.
        sumsq: Sum of squares per channel.
        min: Smallest value per channel.
        max: Largest value per channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=1, lt=2**63)]
    sum: _Numbers
    sumsq: _Numbers
    min: _Numbers
    max: _Numbers

    @model_validator(mode="after")
    def _has_one_of_each_per_channel(self) -> Self:
        if len({len(self.sum), len(self.sumsq), len(self.min), len(self.max)}) != 1:
            raise ValueError("sums and extremes are of different numbers of channels")
        return self

    @classmethod
    def of(cls, tokens: NDArray[np.floating[Any]]) -> "ChannelStatistics":
        """Count tokens (C, ...) of one image; float64, as float16 sums overflow."""
        values = tokens.reshape(len(tokens), -1).astype(np.float64)  # (C, N)
        return cls(
            count=values.shape[1],
            sum=tuple(values.sum(axis=1).tolist()),
            sumsq=tuple(np.square(values).sum(axis=1).tolist()),
            min=tuple(values.min(axis=1).tolist()),
            max=tuple(values.max(axis=1).tolist()),
        )

    @classmethod
    def merge(cls, parts: Iterable["ChannelStatistics | None"]) -> "ChannelStatistics | None":
        """Combine the statistics of disjoint sets of tokens, in order; None is the empty set."""
        every = [part for part in parts if part is not None]
        if not every:
            return None
        return cls.model_construct(  # checked already, and their sums may be larger
            count=sum(part.count for part in every),
            sum=tuple(np.sum([part.sum for part in every], axis=0).tolist()),
            sumsq=tuple(np.sum([part.sumsq for part in every], axis=0).tolist()),
            min=tuple(np.min([part.min for part in every], axis=0).tolist()),
            max=tuple(np.max([part.max for part in every], axis=0).tolist()),
        )

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean per channel (C,)."""
        return np.asarray(self.sum) / self.count

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation per channel (C,), of the population."""
        variance = np.asarray(self.sumsq) / self.count - self.mean**2
        return np.sqrt(np.maximum(variance, 0.0))  # rounding may leave -1e-17
