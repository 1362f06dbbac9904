"""`ssr verify` and `--repair`: what is damaged is named, mended, and nothing else is touched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.workplace import demand, shard, ssr, stored, the_store


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: tuple[tuple[Callable[[Path], None], str], ...] = (
    (flip_a_bit, "bytes have changed"),
    (cut, "bytes instead of"),
    (empty, "0 bytes instead of"),
    (Path.unlink, "file missing"),
)


@pytest.mark.usefixtures("photos")
def test_a_sound_store_is_said_to_be_sound() -> None:
    assert "every shard is what was written" in demand("verify", str(the_store("source")))


@pytest.mark.parametrize(("damage", "problem"), DAMAGES)
def test_a_damaged_shard_is_named_with_its_images_and_repaired_to_the_same_bytes(
    damage: Callable[[Path], None], problem: str, photos: Path
) -> None:
    store, before = str(the_store("source")), stored(photos)
    other = shard("source", 1).stat().st_mtime_ns
    damage(shard("source", 0))

    outcome = ssr("verify", store, "--json", "found.json")
    assert outcome.code == 2
    assert problem in outcome.out
    assert "  source/train/day/images/00000\n" in outcome.out
    assert "1 shards with 4 images" in outcome.err
    assert outcome.err.count("\n") == 1
    (fault,) = json.loads(Path("found.json").read_text())["faults"]
    assert (fault["level"], fault["shard"]) == ("stride8", 0)
    assert len(fault["images"]) == 4

    demand("verify", store, "--repair")
    assert stored(photos) == before
    assert shard("source", 1).stat().st_mtime_ns == other


@pytest.mark.usefixtures("photos")
def test_a_lost_ledger_entry_and_an_entry_of_something_else_are_found() -> None:
    store = the_store("source")
    entries = sorted((store / "ledger" / "stride8").iterdir())
    entries[0].unlink()
    entry = json.loads(entries[1].read_text())
    entries[1].write_text(json.dumps(entry | {"fingerprint": "0" * 64}))
    outcome = ssr("verify", str(store))
    assert "no ledger entry" in outcome.out
    assert "of other features or images" in outcome.out
    assert "2 shards with 6 images" in outcome.err


def test_damaged_metadata_is_refused_in_one_line_and_repaired(photos: Path) -> None:
    store, before = the_store("source"), stored(photos)
    flip_a_bit(store / "ledger" / "metadata.json")
    flip_a_bit(shard("source", 0))
    outcome = ssr("verify", str(store))
    assert outcome.code == 2
    assert "mends the metadata and keeps the features" in outcome.err
    demand("verify", str(store), "--repair")
    assert stored(photos) == before


@pytest.mark.usefixtures("photos")
def test_a_store_that_the_params_do_not_make_is_not_touched_by_repair() -> None:
    store = the_store("source")
    shard("source", 0).unlink()
    outcome = ssr("verify", str(store), "--repair", "-S", "embed.overlap=0.25")
    assert outcome.code == 2
    assert "is no store that the params ask for" in outcome.err
    assert [path.name for path in store.parent.iterdir()] == [store.name]


@pytest.mark.usefixtures("photos")
def test_where_there_is_no_store_repair_makes_none() -> None:
    outcome = ssr("verify", "data/features/source/00000000.zarr", "--repair")
    assert outcome.code == 2
    assert not Path("data/features/source/00000000.zarr").exists()


@pytest.mark.usefixtures("photos")
def test_repair_and_online_are_not_given_together() -> None:
    outcome = ssr("verify", str(the_store("source")), "--repair", "--online", "1")
    assert outcome.code == 2
    assert "give one of them" in outcome.err
