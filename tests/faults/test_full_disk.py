"""A disk that is full at any moment of stage one: one line, nothing lost, on with more room."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from store.errors import SSRError
from tests.embed.world import World
from tests.faults.conftest import Undisturbed
from tests.faults.disk import PAGE_BYTES, small_disk
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import PHOTOS, SMALLEST, add_photos, demand, the_store, write_params
from tests.store.worlds import assert_only_incomplete


def survive_full_disks(world: World, expected: dict[str, bytes], options: list[str]) -> None:
    """Run on disks that are too small, then on the same ones with room."""
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
                assert not list(store.rglob("*.partial"))
                assert_only_incomplete(store)
            entries = folder.glob("features/source/*.zarr/ledger/stride8/*.json")
            done = sum(len(json.loads(entry.read_bytes())["images"]) for entry in entries)
            disk.change("size=8m,nr_inodes=1000")
            assert cramped.run().embedded == 5 - done
            assert cramped.features() == expected, option


@pytest.mark.parametrize(
    "shares", [(0.1, 0.5, 0.95), pytest.param([n / 40 for n in range(40)], marks=pytest.mark.slow)]
)
def test_a_full_disk_loses_nothing_in_the_metadata_in_a_shard_and_near_the_end(
    world: World, undisturbed: Undisturbed, shares: Sequence[float]
) -> None:
    files = undisturbed(world)
    need = sum(-(-len(data) // PAGE_BYTES) for data in files.values())
    sizes = {max(1, int(need * share)) for share in shares}
    survive_full_disks(world, files, [f"size={n * PAGE_BYTES}" for n in sorted(sizes)])


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
