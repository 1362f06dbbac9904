"""Shards are, to the byte, what zarr-python would have written."""

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from store.codec import CODECS, Codec
from store.layout import array_settings, encode_images
from store.spec import ImageEntry, LevelGrid


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    slots=st.lists(
        st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5
    ),
    side=st.sampled_from((1, 3, 8, 16)),
    threads=st.integers(1, 3),
    dtype=st.sampled_from((np.float16, np.float32)),
)
def test_a_shard_has_the_bytes_that_zarr_python_writes(
    codec: str,
    size: tuple[int, int],
    slots: list[tuple[int, int] | None],
    side: int,
    threads: int,
    dtype: type[np.floating[Any]],
) -> None:
    grid = LevelGrid(8, 3, 5, size, min(side, *size), Codec(codec))
    scale = np.array([0.05, 0.1, 0.02], np.float32) if grid.codec.scaled else None
    rng = np.random.default_rng(0)
    block = np.full(grid.shard_shape, grid.codec.fill, grid.codec.dtype)
    images: list[ImageEntry | None] = []
    features, parts = {}, []
    for row, slot in enumerate(slots):
        images.append(None)
        if slot is not None:
            h, w = min(slot[0], size[0]), min(slot[1], size[1])
            image = images[row] = ImageEntry(str(row), "", (8 * h, 8 * w))
            features[image.image_id] = rng.normal(3, 2, (3, h, w)).astype(dtype)
            stored, _ = grid.codec.encode(features[image.image_id], scale)
            block[row, :, :h, :w] = stored
            parts.append(grid.codec.decode(stored, scale).astype(np.float64))
    memory: dict[str, Any] = {}
    array = zarr.create_array(MemoryStore(memory), **array_settings(grid, grid.shard_shape))
    array[...] = block

    data, statistics, _ = encode_images(grid, scale, images, features, threads)

    if parts:
        assert bytes(data) == memory["c.0.0.0.0"].to_bytes()
        assert statistics is not None
        tokens = np.concatenate([part.reshape(3, -1) for part in parts], axis=1)
        np.testing.assert_allclose(statistics.sum, tokens.sum(1), rtol=1e-12)
        np.testing.assert_allclose(statistics.sumsq, np.square(tokens).sum(1), rtol=1e-12)
        np.testing.assert_array_equal(statistics.min, tokens.min(1))
        np.testing.assert_array_equal(statistics.max, tokens.max(1))
    else:
        assert statistics is None
        assert len(data) == grid.index_bytes
