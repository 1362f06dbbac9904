import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.errors import StoreError, StoreIncompleteError, StoreMismatchError
from store.read import FeatureReader
from store.shard_writer import ShardTask
from store.spec import ImageEntry, Level
from store.summary import inspect, open_dataset
from store.verify import verify
from store.write import StoreWriter
from tests.store.worlds import (
    LEVELS,
    SPEC,
    changed,
    features,
    features_of,
    files,
    images,
    window_of,
    write,
)


def summary(tasks: list[ShardTask]) -> list[tuple[int, tuple[str, ...]]]:
    return [(task.shard, task.levels) for task in tasks]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A complete store of seven images: two full shards and a third with one image."""
    write(tmp_path, images(7))
    return tmp_path / SPEC.relative_path


@pytest.mark.parametrize(
    "change", [changed, lambda image: replace(image, working_size_px=(64, 64))], ids=["new", "size"]
)
def test_a_changed_image_makes_its_shard_pending(
    tmp_path: Path, store: Path, change: Callable[[ImageEntry], ImageEntry]
) -> None:
    wanted = images(7)
    wanted[4] = change(wanted[4])
    _, tasks = write(tmp_path, wanted)
    assert summary(tasks) == [(1, LEVELS)]
    window = window_of(FeatureReader(store), wanted[4], "stride8")
    np.testing.assert_array_equal(window, features(wanted[4], "stride8").astype(np.float16))


def halve(path: Path) -> None:
    for file in path.iterdir() if path.is_dir() else [path]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def shift(folder: Path) -> None:
    """Give every shard's entry to the next one."""
    entries = [path.read_bytes() for path in sorted(folder.iterdir())]
    for path, entry in zip(sorted(folder.iterdir()), entries[1:] + entries[:1], strict=True):
        path.write_bytes(entry)


ALL = [(n, ("stride16",)) for n in range(3)]


@pytest.mark.parametrize(
    ("damage", "name", "costs"),
    [
        (Path.unlink, "stride16/c.1.0.0.0", ALL[1:2]),
        (halve, "stride16/c.1.0.0.0", ALL[1:2]),
        (halve, "ledger/stride16/000001.json", ALL[1:2]),
        (Path.unlink, "ledger/stride16/000001.json", ALL[1:2]),
        (shutil.rmtree, "stride16", ALL),
        (halve, "ledger/stride16", ALL),
        (shift, "ledger/stride16", ALL),
        (shutil.rmtree, "ledger", [(n, LEVELS) for n in range(3)]),
        (shutil.rmtree, "", [(n, LEVELS) for n in range(3)]),
        *((halve, name, []) for name in ("zarr.json", "stride8/zarr.json", "image/c.0")),
        *((halve, f"ledger/{name}.json", []) for name in ("images", "metadata")),
    ],
)
def test_the_next_run_makes_what_a_lost_or_cut_file_costs_and_no_more(
    tmp_path: Path,
    store: Path,
    damage: Callable[[Path], object],
    name: str,
    costs: list[tuple[int, tuple[str, ...]]],
) -> None:
    before = files(store)
    damage(store / name)
    with pytest.raises(StoreError, match="run `ssr embed`"):
        FeatureReader(store).window(images(7)[3].image_id, "stride16", 0, 0, 1, 1)
    _, tasks = write(tmp_path, images(7))
    assert summary(tasks) == costs
    assert files(store) == before


def test_appending_rewrites_the_last_shard_whole_and_no_other(tmp_path: Path, store: Path) -> None:
    before = (store / "stride8/c.1.0.0.0").stat().st_mtime_ns
    _, tasks = write(tmp_path, images(10))
    assert [task.shard for task in tasks] == [2, 3]
    assert tasks[0].images == tuple(images(3, first=6))
    assert (store / "stride8/c.1.0.0.0").stat().st_mtime_ns == before
    write(tmp_path / "at once", images(10))
    assert files(store) == files(tmp_path / "at once" / SPEC.relative_path)


def test_removing_an_image_costs_nothing_and_its_return_neither(
    tmp_path: Path, store: Path
) -> None:
    before = files(store)
    wanted = images(7)
    assert write(tmp_path, wanted[:2] + wanted[3:])[1] == []
    with pytest.raises(StoreIncompleteError, match="no image 'source/train/002'"):
        FeatureReader(store).window(wanted[2].image_id, "stride8", 0, 0, 1, 1)
    assert write(tmp_path, wanted)[1] == []
    assert files(store) == before


def test_a_folder_with_features_of_something_else_is_refused(tmp_path: Path, store: Path) -> None:
    target = replace(SPEC, domain="target")
    (tmp_path / "target").mkdir()
    store.rename(tmp_path / target.relative_path)
    with pytest.raises(StoreMismatchError, match="move it away"):
        write(tmp_path, images(7), spec=target)


def test_levels_have_names_strides_and_channels_of_their_own(tmp_path: Path) -> None:
    offered = {"block_5": Level(16, 6), "block_11": Level(16, 3), "channels": Level(4, 2)}
    spec = replace(SPEC, levels=offered)
    image = images(1)[0]
    given = {
        name: {image.image_id: np.full((channels, 160 // side, 192 // side), side - 1, np.float32)}
        for name, (side, channels) in offered.items()
    }
    # the second writer knows no level but its own
    for levels in ({n: offered[n] for n in ("block_5", "channels")}, {"block_11": Level(16, 3)}):
        with StoreWriter(tmp_path, replace(spec, levels=levels), [image], list(levels)) as writer:
            for task in writer.pending():
                writer.write_shard(task, {name: given[name] for name in task.levels})
    reader = FeatureReader(writer.path)
    assert reader.header.levels == ("channels", "block_11", "block_5")
    assert reader.header.spec.levels == offered
    for name in offered:
        window = window_of(reader, image, name)
        np.testing.assert_array_equal(window, given[name][image.image_id])
        assert inspect(writer.path).levels[name].shape == (1, *window.shape)
        assert open_dataset(writer.path)[name].attrs["channels"] == len(window)
    assert verify(writer.path).sound


@pytest.mark.parametrize(
    ("found", "damage"),
    [
        (b"train/001", b"train/000"),
        (b"train/004", b"train/0x4"),
        (b"[96,192]},", b"[-96,192]},"),
        (b"slots", b"slits"),
    ],
)
def test_damaged_slots_are_restored_from_the_entries_of_the_shards(
    tmp_path: Path, store: Path, found: bytes, damage: bytes
) -> None:
    wanted = [image for image in images(7) if image != images(7)[4]]
    write(tmp_path, wanted)
    before = files(store)
    path = store / "ledger" / "images.json"
    head, middle, tail = path.read_bytes().rpartition(found)  # the last size is of the tombstone
    path.write_bytes(head + middle.replace(found, damage) + tail)
    assert write(tmp_path, wanted)[1] == []
    assert files(store) == before


def test_losing_the_slots_never_mixes_features_up(tmp_path: Path, store: Path) -> None:
    (store / "ledger" / "images.json").unlink()
    wanted = images(7)[::-1]
    write(tmp_path, wanted)
    reader = FeatureReader(store)
    for image in wanted:
        expected = features(image, "stride8").astype(np.float16)
        np.testing.assert_array_equal(window_of(reader, image, "stride8"), expected)


@pytest.mark.parametrize("value", [np.nan, 65520.0])
def test_features_that_float16_cannot_hold_are_refused_before_anything_is_written(
    tmp_path: Path, value: float
) -> None:
    with StoreWriter(tmp_path, SPEC, images(3), LEVELS) as writer:
        before = files(writer.path)
        (task,) = writer.pending()
        given = {level: dict(held) for level, held in features_of(task).items()}
        given["stride16"]["source/train/001"][1, 2, 3] = value
        with pytest.raises(StoreError, match=r"stride16 .*/001: 1 of 288 values are NaN"):
            writer.write_shard(task, given)
        assert files(writer.path) == before
        given["stride16"]["source/train/001"][1, 2, 3] = 65504.0
        writer.write_shard(task, given)


@pytest.mark.parametrize(
    "wanted",
    [
        [],
        images(2) + images(1),
        [ImageEntry("a", "c", (160, 224))],
        [ImageEntry("a", "c", (192, 192))],
        [ImageEntry("a", "c", (150, 192))],
    ],
)
def test_images_that_cannot_be_stored_are_refused(tmp_path: Path, wanted: list[ImageEntry]) -> None:
    with pytest.raises(StoreError, match="no store of source can have these images"):
        StoreWriter(tmp_path, SPEC, wanted, LEVELS)
    assert not any(tmp_path.iterdir())


def test_a_full_disk_gives_one_line_and_keeps_the_shards_that_are_done(tmp_path: Path) -> None:
    with StoreWriter(tmp_path, SPEC, images(7), ("stride8",)) as writer:
        first, second, _ = writer.pending()
        writer.write_shard(first, features_of(first))
        before = files(writer.path)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # as a full disk, amid a write
        try:
            with pytest.raises(
                StoreError, match=r"write .*c\.1\.0\.0\.0: File too large"
            ) as caught:
                writer.write_shard(second, features_of(second))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        assert files(writer.path) == before
        assert [task.shard for task in writer.pending()] == [1, 2]
