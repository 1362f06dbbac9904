"""The room that a store is said to need, against stores on the disk."""

from pathlib import Path

import pytest

from store.layout import footprint
from tests.store import worlds


def test_shards_and_metadata_are_exact_to_the_byte(tmp_path: Path) -> None:
    images = worlds.images(7)  # three sizes, the last shard partly filled
    worlds.write(tmp_path, images, levels=("stride8",))
    (store,) = tmp_path.glob("*/*.zarr")
    shards = sum(path.stat().st_size for path in store.glob("stride8/c.*"))
    ledger = sum(path.stat().st_size for path in store.glob("ledger/stride8/*"))
    every = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    expected = footprint(worlds.SPEC, images, ("stride8",))
    assert expected.metadata.size_bytes == every - shards - ledger
    assert expected.levels["stride8"].size_bytes - shards == pytest.approx(ledger, rel=0.2)
