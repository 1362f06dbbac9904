"""Order is kept, work starts early, and never more of it than was asked for."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.embed.lookahead import ahead, batches


@given(st.lists(st.integers()), st.integers(0, 9))
def test_looking_ahead_keeps_order(items: list[int], count: int) -> None:
    assert list(ahead(items, count)) == items


@pytest.mark.parametrize("count", [0, 1, 3])
def test_exactly_so_many_are_drawn_before_they_are_needed(count: int) -> None:
    drawn = []

    def source() -> Iterator[int]:
        for i in range(9):
            drawn.append(i)
            yield i

    stream = ahead(source(), count)
    assert drawn == []
    for needed in range(9):
        assert next(stream) == needed
        assert len(drawn) == min(9, needed + 1 + count)


@given(st.lists(st.text("ab", min_size=1, max_size=1)), st.integers(1, 4))
def test_batches_hold_one_kind_in_order_and_lose_nothing(kinds: list[str], size: int) -> None:
    items = list(enumerate(kinds))
    found = list(batches(items, size, lambda item: item[1]))
    for kind in "ab":
        of_kind = [batch for batch in found if batch[0][1] == kind]
        assert [i for batch in of_kind for i in batch] == [i for i in items if i[1] == kind]
        assert all(len(batch) == size for batch in of_kind[:-1])
    assert all(len({kind for _, kind in batch}) == 1 for batch in found)
