"""In one process, in parts, by workers of dask, after a kill: always the same bytes."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster

from stages.embed import cluster
from stages.embed.cluster import make_shard
from stages.embed.stores import planned_store
from store.codec import Projection
from store.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    StoreBusyError,
)
from store.write import StoreWriter
from tests.embed.world import World, changed

DASK: dict[str, Any] = {"executor": "dask", "workers": 2}


def in_parts(world: World, count: int, **changes: Any) -> None:  # noqa: ANN401
    world.run(step="init", **changes)
    for i in range(1, count + 1):
        world.run(step=(i, count), **changes)
    assert not world.index_path.exists()
    world.run(step="finalise", **changes)


@pytest.mark.parametrize(
    ("codec", "projection"),
    [("float16", None), ("int8-zstd", Projection(12, whiten=True))],
)
def test_every_way_makes_the_same_bytes(
    world: World, tmp_path: Path, codec: str, projection: Projection | None
) -> None:
    world.codec, world.projection = codec, projection
    if projection is not None:
        world.config = changed(world.config, flips=("none", "horizontal"))
    ways = [world.twin(tmp_path / name) for name in ("serial", "parts", "dask")]
    serial, parts, workers = ways
    serial.run()
    in_parts(parts, 3)
    workers.run(**DASK)
    assert parts.features() == serial.features()
    assert workers.features() == serial.features()


def test_a_killed_worker_costs_its_shard_only(world: World, tmp_path: Path) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()
    killed: list[int] = []

    def kill(done: int, total: int, what: str) -> None:
        if not killed:
            killed.extend(children()[:1])
            os.kill(killed[0], signal.SIGKILL)

    result = world.run(kill, **DASK)
    assert len(killed) == 1
    assert children() == []
    assert result.embedded == 5
    assert world.features() == undisturbed.features()


def test_what_a_worker_meets_ends_the_run_in_one_line(world: World) -> None:
    (world.folder / "images" / "e.png").write_bytes(b"changed")
    with pytest.raises(DataError, match=r"e\.png: has changed"):
        world.run(**DASK)
    assert children() == []


def test_workers_can_be_those_of_a_scheduler_that_is_there(world: World, tmp_path: Path) -> None:
    undisturbed = world.twin(tmp_path / "twin")
    undisturbed.run()
    with scheduler() as started:
        world.run(executor="dask", scheduler=started.scheduler_address)
    assert world.features() == undisturbed.features()


def test_a_scheduler_that_is_not_there_or_has_no_workers_is_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(ConfigError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        world.run(executor="dask", scheduler="tcp://127.0.0.1:9")
    with scheduler(workers=0) as started, pytest.raises(ConfigError, match="has no workers"):
        world.run(executor="dask", scheduler=started.scheduler_address)


def test_workers_that_go_for_good_end_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.3)
    world.shard_images = 1
    with scheduler() as started, pytest.raises(ConfigError, match="no worker of dask is left"):
        world.run(lambda *_: started.scale(0), executor="dask", scheduler=started.scheduler_address)


def test_there_is_one_worker_for_each_gpu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = world.config.model_copy(update={"device": "auto"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert cluster._gpus(config) == ["3", "5"]
    assert cluster._workers(config)[0] == 2


def test_a_worker_writes_no_other_weights_and_not_for_a_process_that_ended(world: World) -> None:
    world.run()
    world.add("c", seed=77)
    config, images = world.config, world.folder / "images"
    planned = planned_store(
        config,
        "source",
        manifest=world.manifest,
        shard_images=world.shard_images,
        codec=world.codec,
        weights=config.teacher.weights_identity(),
    )
    with StoreWriter(world.store_url, planned.spec, planned.images, config.levels) as writer:
        (task,) = writer.pending()
        make = partial(make_shard, task, world.records, root=images, writer=writer.shards, gpus=())
        other = make(config=changed(config, seed=9))
    assert isinstance(other, CheckpointError)
    assert "other weights" in str(other)
    before = world.features()
    late = make(config=config)
    assert isinstance(late, StoreBusyError)
    assert "has ended, or another took over" in str(late)
    assert world.features() == before


def children() -> list[int]:
    """Processes that work for this one, without Python's own that watch resources."""
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def scheduler(workers: int = 1) -> LocalCluster:
    """Start a cluster as somebody else would."""
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
