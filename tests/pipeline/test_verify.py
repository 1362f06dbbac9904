"""`ssr verify` and `--repair`: what is damaged is named, mended, and nothing else is touched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from store.files import LocalFiles
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import demand, shard, ssr, stored, the_store


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(flip_a_bit, "is damaged"), (Path.unlink, "is missing")],
)
def test_a_damaged_shard_is_named_with_its_images_and_repaired_to_the_same_bytes(
    damage: Callable[[Path], None], problem: str, photos: Path
) -> None:
    store, before = str(the_store("source")), stored(photos)
    other = shard("source", 1).stat().st_mtime_ns
    damage(shard("source", 0))

    outcome = ssr("verify", store, "--json", "found.json")
    assert outcome.code == 2
    assert problem in outcome.out
    assert "  source/train/day/images/0000" in outcome.out
    assert "1 files are damaged or missing, with features of 4 images" in outcome.err
    (fault,) = json.loads(Path("found.json").read_text())["damage"]
    assert (fault["level"], fault["shard"]) == ("stride8", 0)
    assert len(fault["images"]) == 4

    demand("verify", store, "--repair")
    assert stored(photos) == before
    assert shard("source", 1).stat().st_mtime_ns == other


def test_damaged_metadata_is_named_and_repaired(photos: Path) -> None:
    store, before = the_store("source"), stored(photos)
    flip_a_bit(store / "ledger" / "metadata.json")
    flip_a_bit(shard("source", 0))
    assert_refused(
        f"verify {store}",
        "1 files are damaged or missing",
        "shards are checked once the metadata is repaired",
    )
    demand("verify", str(store), "--repair")
    assert stored(photos) == before


@pytest.mark.usefixtures("photos")
def test_a_store_that_the_params_do_not_make_is_not_touched_by_repair() -> None:
    store = the_store("source")
    shard("source", 0).unlink()
    assert_refused(
        f"verify {store} --repair -S embed.overlap=0.25", "is not a store that the params ask for"
    )
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_repair_leaves_alone_what_cannot_be_read_and_says_so(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, before = str(the_store("source")), stored(photos)
    read = LocalFiles.read

    def fail(files: LocalFiles, name: str) -> bytes | None:
        if name == "stride8/c.0.0.0.0":
            raise OSError(5, "Input/output error")
        return read(files, name)

    monkeypatch.setattr(LocalFiles, "read", fail)
    flip_a_bit(shard("source", 1))
    for command in (["--repair", "--json", "found.json"], ["--repair"]):  # it ends as it began
        outcome = ssr("verify", store, *command)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "1 files could not be read, with features of 4 images" in outcome.err
        assert stored(photos) == before
    found = json.loads(Path("found.json").read_text())
    assert [one["file"] for one in found["unread"]] == ["stride8/c.0.0.0.0"]
    assert found["damage"] == []


def test_repair_touches_nothing_where_an_image_of_the_shard_is_gone(photos: Path) -> None:
    flip_a_bit(shard("source", 0))
    before = stored(photos)
    gone = photos / "photos" / "day" / "images" / "00001.png"
    gone.unlink()
    assert_refused(f"verify {the_store('source')} --repair", "00001.png")
    assert stored(photos) == before


def test_repair_mends_a_level_that_the_params_no_longer_name(photos: Path) -> None:
    ssr("embed", "-S", "embed.levels=[stride8,stride16]")
    ssr("embed")
    before = stored(photos)
    flip_a_bit(shard("source", 0, "stride16"))
    demand("verify", str(the_store("source")), "--repair")
    assert stored(photos) == before
