"""Checks of a writer, before it touches anything."""

# C channels, h w tokens

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store.codec import OVERFLOW
from store.errors import StoreError
from store.grid import LevelGrid
from store.spec import ImageEntry, StoreSpec, is_working_size


def check_images(spec: StoreSpec, images: Sequence[ImageEntry]) -> None:
    """Refuse images that have no place in a store.

    Raises:
        StoreError: There are none, an id is given twice, or a size does not fit the grid.
    """
    if not images:
        raise StoreError(f"no images for the store of {spec.domain}: check the manifest")
    seen: set[str] = set()
    for image in images:
        if image.image_id in seen:
            raise StoreError(f"image id {image.image_id} is given twice: ids must be unique")
        seen.add(image.image_id)
        size, grid = image.working_size_px, spec.grid_px
        if not is_working_size(size) or size[0] > grid[0] or size[1] > grid[1]:
            raise StoreError(
                f"working size {size} px of {image.image_id} must be a multiple of 32 px within "
                f"the grid {grid} px of the store"
            )


def check_keys(what: str, where: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    """Refuse what is of other levels or images than asked for.

    Raises:
        StoreError: Some are missing or left over.
    """
    missing = sorted(set(wanted) - set(found))
    surplus = sorted(set(found) - set(wanted))
    if missing or surplus:
        raise StoreError(
            f"{where} are of other {what} than asked for: "
            f"missing {missing[:3]}, not asked for {surplus[:3]}"
        )


def check_features(spec: StoreSpec, level: str, image: ImageEntry, features: NDArray[Any]) -> None:
    """Refuse features (C, h, w) of one image that cannot be stored as they are.

    Raises:
        StoreError: Shape or type is wrong, or a value is NaN, Inf or too large for the codec.
    """
    grid = LevelGrid.of(spec, level)
    expected = (grid.channels, *grid.image_size_tok(image.working_size_px))
    where = f"{level} features of {image.image_id}"
    if features.shape != expected:
        raise StoreError(f"{where} have shape {features.shape}, expected {expected} (C, h, w)")
    if features.dtype not in (np.float32, np.float16):
        raise StoreError(f"{where} are {features.dtype}, expected float32 or float16")
    # Not isfinite: a float32 beyond 65504 would become Inf in float16.
    outside = features.size - int(np.count_nonzero(np.abs(features) < OVERFLOW))
    if outside:
        raise StoreError(
            f"{where}: {outside} of {features.size} values are NaN, Inf or beyond {spec.codec}; "
            "check the teacher's weights and precision"
        )
