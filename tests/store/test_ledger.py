from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from store.ledger import Slot, assign_slots, parse_entry
from store.spec import ImageEntry
from tests.store.worlds import images, write

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


def test_an_entry_that_is_cut_flipped_or_of_another_shard_counts_for_nothing(
    tmp_path: Path,
) -> None:
    entry, _ = write(tmp_path, images(6))
    whole = (tmp_path / entry.path / "ledger" / "stride8" / "000000.json").read_bytes()
    assert parse_entry(whole, "stride8", 0) is not None
    for end in range(0, len(whole) - 1, 7):
        assert parse_entry(whole[:end], "stride8", 0) is None
        flipped = whole[:end] + bytes([whole[end] ^ 1]) + whole[end + 1 :]
        assert parse_entry(flipped, "stride8", 0) is None
    assert parse_entry(whole, "stride8", 1) is None
    assert parse_entry(whole, "stride16", 0) is None
