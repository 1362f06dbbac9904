"""Reading reference vectors: one `.npz` per case, its configuration in `meta`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One reference file: `meta` is its configuration, `arrays` inputs, weights and results."""

    name: str
    meta: dict[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def __getitem__(self, key: str) -> NDArray[Any]:
        return self.arrays[key]

    def tensor(self, key: str) -> Tensor:
        """The array as a tensor; int32 indices and labels become int64."""
        array = self.arrays[key]
        return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array.copy())

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.arrays if key.startswith(prefix)]

    def params(self, prefix: str) -> dict[str, Tensor]:
        """Weights below `prefix`, under their official names."""
        return {key.removeprefix(prefix): self.tensor(key) for key in self.keys(prefix)}


@dataclass(frozen=True)
class Reference:
    """A folder of reference vectors; `reference("ema")` reads one case, which must be there."""

    folder: Path

    def __call__(self, name: str) -> Case:
        with np.load(self.folder / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return Case(name, json.loads(str(arrays.pop("meta"))), arrays)

    def json(self, name: str) -> Any:  # noqa: ANN401 - whatever the file holds
        return json.loads((self.folder / f"{name}.json").read_text())


def assert_close(actual: Tensor | ArrayLike, expected: Tensor | ArrayLike, tol: float) -> None:
    """Demand |actual - expected| <= tol * max(1, max|expected|), the reference's own measure."""
    got = np.asarray(actual.detach() if isinstance(actual, Tensor) else actual, np.float64)
    want = np.asarray(expected.detach() if isinstance(expected, Tensor) else expected, np.float64)
    assert got.shape == want.shape, f"shape {got.shape} is not {want.shape}"
    assert np.array_equal(np.isnan(got), np.isnan(want)), "NaN in other places"
    worst = np.nanmax(np.abs(got - want), initial=0.0)
    allowed = tol * max(1.0, float(np.nanmax(np.abs(want), initial=0.0)))
    assert worst <= allowed, f"differs by {worst:.3g}, allowed is {allowed:.3g}"
