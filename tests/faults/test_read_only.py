"""Folders that must not be written: one line, nothing changed, and on when they may be."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from store.errors import StoreError
from store.read import FeatureReader
from store.verify import verify
from tests.embed.world import World
from tests.faults.conftest import PROCESSES, Undisturbed, embed
from tests.faults.disk import obey_permissions, small_disk


def test_a_read_only_disk_is_one_line_changes_nothing_and_can_be_read(
    world: World, undisturbed: Undisturbed
) -> None:
    with small_disk(world.store_url, "size=8m") as disk:
        last = world.records.popitem()
        store = Path(world.run().path)
        world.records.update([last])
        before = world.features()
        disk.change("ro")
        with pytest.raises(StoreError, match=rf"cannot write {store}/.*: Read-only file system"):
            world.run()
        assert world.features() == before
        assert verify(store).sound
        window = FeatureReader(store).window("source/train/b", "stride8", 0, 0, 12, 16)
        assert np.isfinite(window).all()
        disk.change("rw")
        assert world.run().embedded == 1
        assert world.features() == undisturbed(world)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        (".", r"cannot write the index .*/features\.json"),
        ("features", r"cannot write .*/features/source/\w+\.zarr"),
        ("features/source/*.zarr/ledger/leases", r"cannot write .*\.zarr"),
        ("features/source/*.zarr/stride8", r"cannot write .*/stride8/c\.1\.0\.0\.0"),
        ("features/source/*.zarr/ledger/stride8", r"cannot write .*/stride8/c\.1\.0\.0\.0"),
    ],
)
def test_a_folder_without_permission_is_one_line_and_keeps_what_is_done(
    world: World, undisturbed: Undisturbed, folder: str, says: str
) -> None:
    store = Path(world.run().path)
    world.index_path.unlink()
    if folder == "features":
        shutil.rmtree(store.parent)
    elif folder != ".":
        (store / "stride8/c.1.0.0.0").unlink()
        (store / "stride8/c.2.0.0.0").unlink()
    done = files(world)
    locked = world.folder if folder == "." else next(world.folder.glob(folder))
    locked.chmod(0o555)
    with (
        ProcessPoolExecutor(1, PROCESSES, obey_permissions) as processes,
        pytest.raises(StoreError, match=f"{says}.*: Permission denied") as caught,
    ):
        processes.submit(embed, world).result()
    locked.chmod(0o755)
    assert "\n" not in str(caught.value)
    kept = files(world)
    changed = {name for name in kept.keys() | done.keys() if kept.get(name) != done.get(name)}
    assert all(name.endswith("ledger/stride8/000001.json") for name in changed), changed  # lost
    world.run()
    assert world.features() == undisturbed(world)


def files(world: World) -> dict[str, bytes]:
    """Return every file below the folder of stores."""
    return {str(path): path.read_bytes() for path in world.store_url.rglob("*") if path.is_file()}
