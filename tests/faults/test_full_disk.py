"""A disk that is full at any moment of stage one: one line, nothing lost, on with more room."""

from dataclasses import replace
from pathlib import Path

import pytest

from store.errors import SSRError, StoreError
from store.verify import UNRECORDED, verify
from tests.conftest import Tell
from tests.embed.world import World
from tests.faults.conftest import Undisturbed
from tests.faults.disk import PAGE_BYTES, limit_file_size, small_disk
from tests.faults.writer import Writer
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import PHOTOS, SMALLEST, add_photos, demand, the_store, write_params


def pages_of(files: dict[str, bytes]) -> int:
    """Pages of a tmpfs that files need."""
    return sum(-(-len(data) // PAGE_BYTES) for data in files.values())


def assert_only_incomplete(store: Path) -> None:
    """What is vouched for is sound, and nothing half-written lies about."""
    assert not list(store.rglob("*.partial"))
    if (store / "zarr.json").exists():
        damage = [found for found in verify(store).damage if found.level is not None]
        assert {found.what for found in damage} <= {"is missing", UNRECORDED}, damage


def survive_full_disks(world: World, undisturbed: Undisturbed, options: list[str]) -> int:
    """Run on disks that are too small, then on the same ones with room; count the full ones."""
    expected = undisturbed(world)
    for option in options:
        folder = world.folder.with_name(option)
        with small_disk(folder, option) as disk:
            cramped = replace(world, folder=folder)
            (folder / "images").symlink_to(world.folder / "images")
            with pytest.raises(SSRError, match="No space left on device") as caught:
                cramped.run()
            assert str(caught.value).startswith("cannot write ")
            assert str(folder) in str(caught.value)
            assert "\n" not in str(caught.value)
            for store in folder.glob("features/source/*.zarr"):
                assert_only_incomplete(store)
            done = len(list(folder.glob("features/source/*.zarr/ledger/stride8/*.json")))
            disk.change("size=8m,nr_inodes=1000")
            assert cramped.run().domains["source"].embedded == max(0, 5 - 2 * done)
            assert cramped.features() == expected, option
    return len(options)


def test_a_full_disk_loses_nothing_in_the_metadata_in_a_shard_and_near_the_end(
    world: World, undisturbed: Undisturbed, tell: Tell
) -> None:
    need = pages_of(undisturbed(world))
    sizes = [3, need // 2, need - 2]
    count = survive_full_disks(world, undisturbed, [f"size={n * PAGE_BYTES}" for n in sizes])
    tell(f"{count} full disks, of {', '.join(map(str, sizes))} pages where {need} are needed")


@pytest.mark.slow
def test_a_disk_may_be_full_after_any_page(
    world: World, undisturbed: Undisturbed, tell: Tell
) -> None:
    need = pages_of(undisturbed(world))
    sizes = [f"size={n * PAGE_BYTES}" for n in range(1, need)]
    count = survive_full_disks(world, undisturbed, sizes)
    tell(f"{count} full disks, of every number of pages below the {need} that are needed")


def test_a_disk_without_room_for_another_file_loses_nothing(
    world: World, undisturbed: Undisturbed, tell: Tell
) -> None:
    count = survive_full_disks(world, undisturbed, [f"nr_inodes={n}" for n in (8, 24, 32)])
    tell(f"{count} disks without a free inode")


def test_a_quota_in_the_middle_of_a_shard_loses_nothing(
    world: World, undisturbed: Undisturbed
) -> None:
    with (
        Writer(world, first=limit_file_size) as writer,
        pytest.raises(StoreError, match=r"cannot write .*c\.0\.0\.0\.0: File too large"),
    ):
        writer.end()
    assert_only_incomplete(next(world.store_url.glob("source/*.zarr")))
    assert world.run().domains["source"].embedded == 5
    assert world.features() == undisturbed(world)


def test_a_full_disk_costs_a_complete_store_no_shard_but_the_changed_one(
    world: World, undisturbed: Undisturbed
) -> None:
    with small_disk(world.store_url, "size=8m") as disk:
        store = Path(world.run().domains["source"].path)
        before = world.features()
        world.add("c", seed=99)
        disk.fill()
        with pytest.raises(StoreError, match="No space left on device"):
            world.run()
        touched = {name for name, data in before.items() if world.features().get(name) != data}
        assert all(name.endswith("ledger/stride8/000001.json") for name in touched), touched
        assert_only_incomplete(store)
        (disk.folder / "in the way").unlink()
        assert world.run().domains["source"].embedded == 2
        assert world.features() == undisturbed(world)


def test_on_a_full_disk_commands_end_with_one_line_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {**SMALLEST, **PHOTOS})
    add_photos(tmp_path)
    with small_disk(tmp_path / "data", "size=4k") as disk:
        assert_refused("prepare", "data/scan-cache.parquet: No space left on device", "disk space")
        disk.change("size=100k")
        demand("prepare")
        assert_refused("embed", "data/features/source/", "No space left on device", "make room")
        disk.change("size=8m")
        demand("embed")
        assert "every file is what was written" in demand("verify", str(the_store("source")))
