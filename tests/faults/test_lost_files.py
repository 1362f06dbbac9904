"""Files that are lost or cut: the next run finds them without `verify`, and makes just those."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.embed.world import World


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def halve_all(folder: Path) -> None:
    for path in folder.iterdir():
        halve(path)


def shift(folder: Path) -> None:
    """Give every shard's entry to the next one."""
    entries = [path.read_bytes() for path in sorted(folder.iterdir())]
    for path, entry in zip(sorted(folder.iterdir()), entries[1:] + entries[:1], strict=True):
        path.write_bytes(entry)


@pytest.mark.parametrize(
    ("damage", "name", "embedded"),
    [
        (empty, "stride8/c.1.0.0.0", 2),
        (halve, "stride8/c.2.0.0.0", 1),
        (Path.unlink, "stride8/c.0.0.0.0", 2),
        (shutil.rmtree, "stride8", 5),
        (shutil.rmtree, "ledger", 5),
        (shutil.rmtree, "ledger/stride8", 5),
        (halve_all, "ledger/stride8", 5),
        (shift, "ledger/stride8", 5),
        (empty, "ledger/stride8/000001.json", 2),
        (halve, "ledger/images.json", 0),
        (shutil.rmtree, "", 5),
        (halve, "../../../features.json", 0),
        (Path.unlink, "../../../features.json", 0),
    ],
)
def test_the_next_run_embeds_what_a_lost_or_cut_file_costs_and_no_more(
    world: World, damage: Callable[[Path], object], name: str, embedded: int
) -> None:
    store = Path(world.run().path)
    before = world.features()
    damage(store / name)
    assert world.run().embedded == embedded
    assert world.features() == before
