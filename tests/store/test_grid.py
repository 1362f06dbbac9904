from hypothesis import given
from hypothesis import strategies as st

from store.grid import LevelGrid, place_of, shard_count, slots_of
from store.spec import LEVELS, StoreSpec, levels_of_format_1

counts = st.integers(0, 300)
shard_sizes = st.integers(1, 40)
sides_px = st.integers(1, 40).map(lambda n: 32 * n)
levels = st.sampled_from(LEVELS)


def grid_of(height_px: int, width_px: int, level: str, shard_images: int = 2) -> LevelGrid:
    spec = StoreSpec(
        "source", levels_of_format_1(5), (height_px, width_px), shard_images, "float16", {}
    )
    return LevelGrid.of(spec, level)


@given(counts, shard_sizes)
def test_shards_partition_the_slots(slots: int, shard_images: int) -> None:
    shards = range(shard_count(slots, shard_images))
    assert [s for shard in shards for s in slots_of(shard, slots, shard_images)] == list(
        range(slots)
    )
    assert all(len(slots_of(shard, slots, shard_images)) > 0 for shard in shards)


@given(counts, counts, shard_sizes)
def test_appending_images_moves_none_and_touches_only_the_last_shard(
    slots: int, more: int, shard_images: int
) -> None:
    whole = slots // shard_images
    for shard in range(whole):
        before = slots_of(shard, slots, shard_images)
        assert slots_of(shard, slots + more, shard_images) == before


@given(st.integers(0, 10_000), shard_sizes)
def test_a_slot_is_found_in_its_shard_at_its_row(slot: int, shard_images: int) -> None:
    shard, row = place_of(slot, shard_images)
    assert slots_of(shard, slot + 1, shard_images)[row] == slot


@given(st.data(), sides_px, sides_px, levels)
def test_the_chunks_under_a_window_hold_each_of_its_tokens_once(
    data: st.DataObject, height_px: int, width_px: int, level: str
) -> None:
    grid = grid_of(height_px, width_px, level)
    h = data.draw(st.integers(1, grid.size_tok[0]))
    w = data.draw(st.integers(1, grid.size_tok[1]))
    y = data.draw(st.integers(0, grid.size_tok[0] - h))
    x = data.draw(st.integers(0, grid.size_tok[1] - w))
    chunks = list(grid.chunks_under(y, x, h, w))
    side = grid.chunk_side_tok
    wanted = {
        (token_y // side, token_x // side)
        for token_y in (y, y + h - 1)
        for token_x in (x, x + w - 1)
    }
    assert len(chunks) == len(set(chunks))
    assert wanted <= set(chunks)
    covered = 0
    for row, column in chunks:
        assert 0 <= row < grid.chunks_per_image[0]
        assert 0 <= column < grid.chunks_per_image[1]
        covered += (min(y + h, (row + 1) * side) - max(y, row * side)) * (
            min(x + w, (column + 1) * side) - max(x, column * side)
        )
    assert covered == h * w
