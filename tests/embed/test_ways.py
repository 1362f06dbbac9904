"""In one process, in parts, by workers of dask, after a kill: always the same bytes."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster

from stages.embed import cluster
from stages.embed.cluster import make_shard
from stages.embed.config import EmbedConfig
from stages.embed.stores import planned_store
from store.codec import Projection
from store.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SSRError,
    StoreBusyError,
    StoreIncompleteError,
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
    with scheduler() as address:
        world.run(executor="dask", scheduler=address)
    assert world.features() == undisturbed.features()


def test_a_scheduler_that_is_not_there_is_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(ConfigError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        world.run(executor="dask", scheduler="tcp://127.0.0.1:9")


def test_a_scheduler_without_workers_is_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with scheduler(workers=0) as address, pytest.raises(ConfigError, match="has no workers"):
        world.run(executor="dask", scheduler=address)


def test_workers_that_go_for_good_end_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.3)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=True
    ) as started:

        def dismiss(done: int, total: int, what: str) -> None:
            started.scale(0)

        world.shard_images = 1
        with pytest.raises(ConfigError, match="no worker of dask is left"):
            world.run(dismiss, executor="dask", scheduler=started.scheduler_address)


def test_there_is_one_worker_for_each_gpu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    config = world.config.model_copy(update={"device": "auto"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert cluster._gpus(config) == ["3", "5"]
    assert cluster._workers(config)[0] == 2


def test_a_worker_writes_no_other_weights_and_not_for_a_process_that_ended(world: World) -> None:
    world.run()
    world.add("c", seed=77)
    config = world.config
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
        images, shards = world.folder / "images", writer.shards

        def make(config: EmbedConfig) -> SSRError | None:
            return make_shard(
                task, world.records, config=config, root=images, writer=shards, gpus=()
            )

        result = make(changed(config, seed=9))
        assert isinstance(result, CheckpointError)
        assert "other weights" in str(result)
    before = world.features()
    result = make(config)
    assert isinstance(result, StoreBusyError)
    assert "has ended, or another took over" in str(result)
    assert world.features() == before


def test_parts_wait_for_init_and_finalise_for_all_parts(world: World) -> None:
    with pytest.raises(StoreIncompleteError, match="run `ssr embed --init` first"):
        world.run(step=(1, 2))
    world.run(step="init")
    world.run(step=(1, 2))
    with pytest.raises(StoreIncompleteError, match="shard 1 of stride8 is missing"):
        world.run(step="finalise")
    assert not world.index_path.exists()


def children() -> list[int]:
    """Processes that work for this one, without Python's own that watch resources."""
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


@contextmanager
def scheduler(workers: int = 1) -> Iterator[str]:
    """A cluster that somebody else started; yields its address."""
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as started:
        yield started.scheduler_address
