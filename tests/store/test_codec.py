from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from store.codec import CODECS, Codec, estimate_scale
from store.errors import StoreError
from store.read import FeatureReader
from store.summary import inspect, open_dataset
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, features, features_of, files, images, write

IMAGES = images(7)


def expected(
    name: str, image_features: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[Any]:
    """What a codec should keep, in the words of the contract."""
    halves = image_features.astype(np.float16)
    if name.startswith("int8"):
        codes = np.rint(halves.astype(np.float32) / scale[:, None, None])
        return np.asarray(codes * scale[:, None, None], np.float32)
    return halves


@pytest.mark.parametrize("name", CODECS)
def test_a_window_is_what_the_codec_keeps(tmp_path: Path, name: str) -> None:
    spec = replace(SPEC, codec=name)
    write(tmp_path, IMAGES, spec=spec)
    reader = FeatureReader(tmp_path / spec.relative_path)
    dataset = open_dataset(tmp_path / spec.relative_path)
    for level in LEVELS:
        scale = estimate_scale(level, (features(image, level) for image in IMAGES))
        for row, image in enumerate(IMAGES):
            kept = expected(name, features(image, level), scale)
            h, w = (side // SPEC.level(level).stride_px for side in image.working_size_px)
            window = reader.window(image.image_id, level, 1, 2, h - 1, w - 2)
            assert window.dtype == (np.float32 if name.startswith("int8") else np.float16)
            np.testing.assert_allclose(window, kept[:, 1:, 2:], rtol=1e-6)
            shown = dataset[level][row].values
            assert shown.dtype == window.dtype
            np.testing.assert_array_equal(shown[:, 1:h, 2:w], window)
            assert np.isnan(shown[:, h:]).all()
            assert np.isnan(shown[:, :, w:]).all()
    group = zarr.open_group(tmp_path / spec.relative_path, mode="r")  # without our code
    stored = group["stride8"][3, :, :20, :24]
    if Codec(name).scaled:
        stored = stored * group["scale_stride8"][:][:, None, None]
    np.testing.assert_array_equal(
        stored, reader.window(IMAGES[3].image_id, "stride8", 0, 0, 20, 24)
    )


@given(st.floats(0.01, 1000.0), st.integers(0, 2**32 - 1))
def test_no_number_of_the_sample_is_clipped_or_far_off(spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = [rng.normal(0.0, spread, (3, 4, 5)).astype(np.float32) for _ in range(2)]
    for image in sample:
        image[2] = 0.0
    scale = estimate_scale("stride8", sample)
    for image in sample:
        codes, clipped = Codec("int8").encode(image, scale)
        assert clipped == 0
        error = np.abs(Codec("int8").decode(codes, scale) - image.astype(np.float16))
        assert (error <= scale[:, None, None] * 0.5001).all()


def test_scales_are_fixed_before_the_first_shard_and_kept(tmp_path: Path) -> None:
    spec = replace(SPEC, codec="int8-zstd")
    with StoreWriter(tmp_path, spec, IMAGES, LEVELS) as writer:
        assert writer.unscaled == LEVELS
        task = writer.pending()[0]
        writer.fix_scales({level: np.full(4, 0.01, np.float32) for level in LEVELS})
        writer.write_shard(task, features_of(task))
    with StoreWriter(tmp_path, spec, IMAGES, LEVELS) as writer:
        assert writer.unscaled == ()
        assert [task.shard for task in writer.pending()] == [1, 2]
        for task in writer.pending():
            writer.write_shard(task, features_of(task))
    summary = inspect(tmp_path / spec.relative_path).levels["stride8"]
    clipped = sum(np.count_nonzero(features(image, "stride8") > 1.275) for image in IMAGES)
    assert clipped < summary.saturated < clipped * 1.1  # and some below -1.275
    window = FeatureReader(writer.path).window(IMAGES[0].image_id, "stride8", 0, 0, 20, 24)
    np.testing.assert_allclose(window.max(), 1.27, rtol=1e-6)


@pytest.mark.parametrize("number", [np.nan, np.inf, 65520.0])
def test_features_that_float16_cannot_hold_have_no_scale(number: float) -> None:
    broken = np.full((4, 2, 2), number, np.float32)
    with pytest.raises(StoreError, match=r"scale of stride8.*check the teacher's weights"):
        estimate_scale("stride8", [features(IMAGES[0], "stride8"), broken])


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"1234" * 5)])
def test_shards_of_a_lost_scale_are_not_read_with_another(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    spec = replace(SPEC, codec="int8")
    write(tmp_path, IMAGES, spec=spec, levels=("stride8",))
    path = tmp_path / spec.relative_path
    before = files(path)
    damage(path / "scale_stride8/c.0")
    with StoreWriter(tmp_path, spec, IMAGES, ("stride8",)) as writer:
        assert writer.unscaled == ("stride8",)
        assert len(writer.pending()) == 3
        writer.fix_scales({"stride8": np.full(4, 0.1, np.float32)})
        assert len(writer.pending()) == 3
    (path / "scale_stride8/c.0").unlink()
    _, tasks = write(tmp_path, IMAGES, spec=spec, levels=("stride8",))
    assert tasks == []  # the sample gives the old scale again, and the shards count again
    assert files(path) == before
