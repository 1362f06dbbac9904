from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.files import LocalFiles
from store.ledger import Ledger, Slot, assign_slots
from store.spec import ImageEntry
from tests.store.worlds import SPEC, changed, images, write

ids = st.lists(st.integers(0, 30), unique=True, max_size=20)


def entries(numbers: list[int]) -> list[ImageEntry]:
    return [ImageEntry(f"image {n}", f"content {n}", (32, 32)) for n in numbers]


@given(st.lists(ids, max_size=5))
def test_slots_are_append_only_whatever_comes_and_goes(history: list[list[int]]) -> None:
    slots: tuple[Slot, ...] = ()
    for numbers in history:
        after = assign_slots(slots, entries(numbers))
        before_ids = [slot.image.image_id for slot in slots]
        after_ids = [slot.image.image_id for slot in after]
        assert after_ids[: len(slots)] == before_ids
        assert len(set(after_ids)) == len(after_ids)
        live = [slot.image for slot in after if slot.live]
        assert sorted(live, key=str) == sorted(entries(numbers), key=str)
        slots = after


def test_a_reappearing_image_gets_its_slot_back() -> None:
    slots = assign_slots((), entries([1, 2, 3]))
    without = assign_slots(slots, entries([1, 3]))
    assert [slot.live for slot in without] == [True, False, True]
    assert assign_slots(without, entries([3, 2, 1])) == slots


def test_a_changed_image_keeps_its_slot_with_its_new_content() -> None:
    one, two = entries([1, 2])
    slots = assign_slots(assign_slots((), [one, two]), [changed(one), two])
    assert [slot.image for slot in slots] == [changed(one), two]


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b"[]", b'{"format":1}', b"\xff\xfe"])
def test_a_damaged_entry_vouches_for_nothing(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, images(3))
    store = tmp_path / SPEC.relative_path
    path = store / "ledger" / "stride8" / "000000.json"
    path.write_bytes(damage)
    assert Ledger(LocalFiles(store)).read("stride8", 0) is None


def test_a_half_written_entry_vouches_for_nothing(tmp_path: Path) -> None:
    write(tmp_path, images(3))
    store = tmp_path / SPEC.relative_path
    path = store / "ledger" / "stride8" / "000000.json"
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        assert Ledger(LocalFiles(store)).read("stride8", 0) is None


def test_an_entry_of_another_shard_or_level_vouches_for_nothing(tmp_path: Path) -> None:
    write(tmp_path, images(6))
    store = tmp_path / SPEC.relative_path
    ledger = store / "ledger"
    entry = (ledger / "stride8" / "000001.json").read_bytes()
    (ledger / "stride8" / "000000.json").write_bytes(entry)
    (ledger / "stride16" / "000001.json").write_bytes(entry)
    assert Ledger(LocalFiles(store)).read("stride8", 0) is None
    assert Ledger(LocalFiles(store)).read("stride16", 1) is None
