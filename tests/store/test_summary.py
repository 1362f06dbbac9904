from pathlib import Path

import numpy as np
import pytest

from store.errors import StoreError
from store.ledger import ChannelStatistics
from store.spec import LEVELS as ALL_LEVELS
from store.summary import inspect
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, features, features_of, images, write

IMAGES = images(7)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path, IMAGES)
    return tmp_path / SPEC.relative_path


def tokens(level: str) -> np.ndarray:
    """All stored tokens (C, N) of a level."""
    blocks = [features(image, level).astype(np.float16).reshape(4, -1) for image in IMAGES]
    return np.concatenate(blocks, axis=1).astype(np.float64)


@pytest.mark.parametrize("recompute", [False, True])
def test_statistics_are_those_of_all_valid_tokens(store: Path, recompute: bool) -> None:
    summary = inspect(store, recompute=recompute)
    for level in LEVELS:
        found = summary.levels[level].statistics
        assert found is not None
        everything = tokens(level)
        assert found.count == everything.shape[1]
        np.testing.assert_allclose(found.mean, everything.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(found.std, everything.std(axis=1), rtol=1e-9)
        np.testing.assert_array_equal(found.min, everything.min(axis=1))
        np.testing.assert_array_equal(found.max, everything.max(axis=1))


def test_a_summary_says_what_is_in_a_store(store: Path) -> None:
    summary = inspect(store)
    assert (summary.domain, summary.images, summary.removed_images) == ("source", 7, 0)
    assert summary.complete
    assert summary.fingerprint == SPEC.fingerprint
    assert summary.provenance == SPEC.provenance
    level = summary.levels["stride8"]
    assert level.shape == (7, 4, 20, 24)
    assert level.shard_shape == (3, 4, 32, 32)
    assert level.chunk_shape == (1, 4, 16, 16)
    assert (level.shards_done, level.shards) == (3, 3)
    assert level.size_bytes == sum(f.stat().st_size for f in store.glob("stride8/c.*"))


def test_large_values_do_not_overflow_the_statistics() -> None:
    huge = np.full((2, 100, 100), 60000.0, np.float16)
    found = ChannelStatistics.of(huge)
    assert found.mean.tolist() == [float(huge[0, 0, 0])] * 2
    assert found.std.tolist() == [0.0, 0.0]


def test_an_interrupted_store_is_not_complete(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, IMAGES, ALL_LEVELS) as writer:
        task = writer.pending()[1]
        writer.write_shard(task, features_of(task))
        path = writer.path
    for recompute in (False, True):
        summary = inspect(path, recompute=recompute)
        assert not summary.complete
        assert summary.levels["stride32"].shards_done == 1
        assert summary.levels["stride32"].shards == 3
        found = summary.levels["stride8"].statistics
        assert found is not None
        assert found.count == sum(features(i, "stride8")[0].size for i in IMAGES[3:6])


def test_an_empty_store_has_no_statistics(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, IMAGES, LEVELS) as writer:
        path = writer.path
    assert inspect(path).levels["stride8"].statistics is None
    assert inspect(path, recompute=True).levels["stride8"].statistics is None


def test_removed_images_are_counted_as_removed(store: Path) -> None:
    before = inspect(store).levels["stride8"].statistics
    write(store.parents[1], IMAGES[3:])
    summary = inspect(store)
    assert (summary.images, summary.removed_images, summary.complete) == (4, 3, True)
    level = summary.levels["stride8"]
    assert (level.shards_done, level.shards) == (2, 2)
    assert level.statistics == before  # of what is stored
    recomputed = inspect(store, recompute=True).levels["stride8"].statistics
    assert recomputed is not None
    assert level.statistics is not None
    assert recomputed.count == level.statistics.count  # both over all that is stored


def test_recomputing_notices_a_damaged_shard(store: Path) -> None:
    file = store / "stride16" / "c.1.0.0.0"
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreError, match=r"a shard .* is damaged: `ssr verify .*` says which"):
        inspect(store, recompute=True)
