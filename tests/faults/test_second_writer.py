"""Processes that want to write the same store at once."""

from concurrent.futures import ProcessPoolExecutor

from store.errors import StoreBusyError
from tests.embed.world import World
from tests.faults.conftest import PROCESSES, Undisturbed, embed


def test_of_writers_that_come_at_once_one_embeds_and_the_store_is_as_of_one(
    world: World, undisturbed: Undisturbed
) -> None:
    embedded, refused = [], []
    with ProcessPoolExecutor(4, PROCESSES) as processes:
        for writer in [processes.submit(embed, world) for _ in range(4)]:
            try:
                embedded.append(writer.result())
            except StoreBusyError as error:
                refused.append(str(error))
    assert sorted(embedded, reverse=True) == [5] + [0] * (3 - len(refused))
    assert all("is being written by process" in line for line in refused)
    assert world.features() == undisturbed(world)
