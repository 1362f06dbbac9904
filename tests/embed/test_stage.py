"""The stage does what is missing, nothing else, and ends with the same bytes."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.embed.config import EmbedConfig
from stages.embed.stores import provenance, require_provenance
from stages.embed.task import run_serial
from stages.embed.teachers.sam_encoder import PREFIX, draw_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from store.errors import CheckpointError, DataError, StoreError, StoreMismatchError
from store.index import Index
from tests.embed.world import World, changed


def shard_times(world: World) -> dict[str, int]:
    """When each shard file of any store was written."""
    files = world.store_url.rglob("c.*.0.0.0")
    return {str(path.relative_to(world.store_url)): path.stat().st_mtime_ns for path in files}


def save_weights(path: Path, seed: int) -> None:
    encoder = draw_encoder(ARCHITECTURES["tiny"], seed).state_dict()
    torch.save({PREFIX + key: value for key, value in encoder.items()}, path)


def test_a_second_run_changes_nothing_and_does_not_even_import_torch(world: World) -> None:
    calls: list[tuple[int, int, str]] = []
    world.run(lambda *call: calls.append(call))
    assert calls == [(i, 5, "source") for i in range(1, 6)]
    before, times = world.features(), shard_times(world)
    run_elsewhere(world, "import sys; assert 'torch' not in sys.modules; assert not calls")
    assert (world.features(), shard_times(world)) == (before, times)


def test_a_killed_run_ends_with_the_same_bytes(world: World, tmp_path: Path) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()
    run_elsewhere(world, "", kill_at=5)  # of five: the first shard is written, perhaps the second
    assert len(shard_times(world)) in (1, 2)
    assert world.run().embedded in (1, 3)
    assert world.features() == undisturbed.features()


def test_levels_embedded_together_or_one_by_one_are_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    together = world.twin(tmp_path / "twin")
    together.run(levels=("stride8", "stride16"))
    world.run(levels=("stride16",))
    before = shard_times(world)
    world.run(levels=("stride16", "stride8"))
    assert world.features() == together.features()
    assert before.items() <= shard_times(world).items()


def test_two_shards_are_written_at_once() -> None:
    meeting = threading.Barrier(2, timeout=60)

    def write(_: int) -> None:
        meeting.wait()

    run_serial((shard for shard in range(4)), write)


@pytest.mark.parametrize("bad", range(4))
def test_what_the_writer_meets_ends_the_run(bad: int) -> None:
    written = set()

    def write(shard: int) -> None:
        if shard == bad:
            raise StoreError("disk full")
        written.add(shard)

    with pytest.raises(StoreError, match="disk full"):
        run_serial((shard for shard in range(8)), write)
    assert {*range(bad)} <= written <= {*range(bad + 3)}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"overlap": 0.25}, False),
        ({"precision": "bfloat16"}, False),
        ({"weights": "file.pth"}, False),
        ({"batch_tiles": 1, "device": "auto", "compile": True, "levels": ("stride32",)}, True),
    ],
)
def test_provenance_tells_all_that_features_depend_on_and_nothing_else(
    change: dict[str, Any], same: bool, embed_config: EmbedConfig
) -> None:
    def about(config: EmbedConfig, weights: str = "ab") -> dict[str, Any]:
        return provenance(config, config.teacher.identity({"weights_sha256": weights}), None)

    assert (about(changed(embed_config, **change)) == about(embed_config)) is same
    assert about(embed_config) != about(embed_config, "cd")


def test_a_run_leaves_no_threads_and_no_thread_count_behind(world: World) -> None:
    world.add("e", seed=5)
    (world.folder / "images" / "e.png").write_bytes(b"changed")
    before, count = set(threading.enumerate()), torch.get_num_threads()
    with pytest.raises(DataError, match=r"e\.png: has changed"):
        world.run(threads=count + 1)
    assert set(threading.enumerate()) == before
    assert torch.get_num_threads() == count
    assert len(shard_times(world)) == 2


def test_a_teacher_from_a_file_is_known_by_its_weights(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(world.folder))
    drawn = world.run()
    assert "UNTRAINED TEACHER" in caplog.text
    caplog.clear()
    before = world.features()
    file = world.folder / "one.pth"
    save_weights(file, seed=5)
    first = world.run(weights=str(file))
    assert "UNTRAINED" not in caplog.text
    shutil.copy(file, world.folder / "copy.pth")
    same = world.run(weights="~/copy.pth")
    assert (same.path, same.embedded) == (first.path, 0)
    save_weights(file, seed=6)
    assert len({drawn.path, same.path, world.run(weights=str(file)).path}) == 3
    kept = {name: data for name, data in before.items() if ".zarr" in name}
    assert kept.items() <= world.features().items()
    with pytest.raises(CheckpointError, match=r"sam\.pth: no such weight file"):
        world.run(weights="sam.pth")
    found = Index.read(world.index_path).stores["source"].provenance
    elsewhere = changed(world.config, weights="absent.pth")
    require_provenance(elsewhere, None, found, where="it")
    with pytest.raises(StoreMismatchError, match="another teacher"):
        require_provenance(changed(elsewhere, architecture="vit_b"), None, found, where="it")


@pytest.mark.parametrize("change", [{"domains": ("target",)}, {"splits": ("val",)}])
def test_a_domain_or_split_without_images_is_refused(change: Any, world: World) -> None:  # noqa: ANN401
    with pytest.raises(DataError, match="the manifest has no"):
        world.run(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ["stride8", "stride8"]}, "names one twice"),
        ({"executor": "dask", "workers": 2, "scheduler": "tcp://host:1"}, "workers of its own"),
    ],
)
def test_the_config_refuses_what_makes_no_sense(
    change: dict[str, Any], message: str, embed_config: EmbedConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        EmbedConfig.model_validate(embed_config.model_dump() | change)


def run_elsewhere(world: World, afterwards: str, kill_at: int = 0) -> None:
    """Run the stage in a process of its own, which may kill itself after an image and a shard."""
    script = f"""
import os, pathlib, pickle, signal, time
world, calls = pickle.loads(pathlib.Path("world.pickle").read_bytes()), []
def progress(*call):
    calls.append(call)
    if len(calls) == {kill_at}:
        while not any(world.store_url.rglob("ledger/stride8/*.json")):
            time.sleep(0.01)  # on a busy machine the writer is behind
        os.kill(os.getpid(), signal.SIGKILL)
world.run(progress)
{afterwards}
"""
    (world.folder / "world.pickle").write_bytes(pickle.dumps(world))
    path = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=world.folder, env=os.environ | path
    )
    assert ended.returncode == (-signal.SIGKILL if kill_at else 0)
