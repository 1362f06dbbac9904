"""Shards made by many processes: a dask cluster on this machine, or one that is there already.

A task is a whole shard: the worker reads its images, embeds and writes them under the lease of the
process that asked, and nothing but the shard's name travels back. A worker that dies costs the
shards in its hands; the others' stay, and those are given to somebody else.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Lock
from typing import Any, Final

from stages.device import cpu_threads
from stages.embed.config import EmbedConfig
from stages.embed.lazy_teacher import LazyTeacher
from stages.embed.task import embed_shards
from stages.embed.teachers.sam_encoder import Teacher, load_teacher
from stages.prepare.manifest import ImageRecord
from store.errors import CheckpointError, ConfigError, SSRError
from store.shard_writer import ShardTask, ShardWriter

RETRIES: Final = 2
"""Of a shard whose worker lives and met something unforeseen, such as a lost network drive."""

WRITERS: Final = 2
"""Threads of a worker: while one encodes another writes."""

CONNECT_S: Final = 10.0
"""How long to wait for a scheduler, and for its first worker, to answer."""

PATIENCE_S: Final = 15.0
"""How often to look whether there are workers at all."""

_encoding = Lock()


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs beside the task; it pickles.

    Attributes:
        config: section `embed`, paths absolute.
        weights_sha256: hash of the weights that the store is of.
        root: folder of the images, absolute.
        writer: writes the shards.
    """

    config: EmbedConfig
    weights_sha256: str
    root: Path
    writer: ShardWriter

    @classmethod
    def of(
        cls, config: EmbedConfig, teacher: LazyTeacher, root: Path, writer: ShardWriter
    ) -> "ShardJob":
        """Make all paths absolute: workers start in other folders."""
        if config.weights != "random":
            weights = str(Path(config.weights).expanduser().absolute())
            config = config.model_copy(update={"weights": weights})
        return cls(config, teacher.weights_sha256, root.absolute(), writer.absolute())


def run_dask(
    job: ShardJob,
    tasks: Sequence[ShardTask],
    records: Mapping[str, ImageRecord],
    *,
    image_done: Callable[[], None],
) -> dict[str, str]:
    """Let dask's workers embed and write shards.

    Args:
        job: what all tasks have in common.
        tasks: which images and levels.
        records: manifest rows by image id, for at least the images of the tasks.
        image_done: called for each image once its shard is on the disk.

    Returns:
        Images that were skipped -> why.

    Raises:
        ConfigError: `distributed` is not installed, no scheduler answers, or workers die again and
            again.
        SSRError: what a worker met; shards that are done stay.
    """
    try:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError
    except ImportError as error:
        raise ConfigError(
            "embed.executor dask needs the package distributed: pip install -e '.[dask]'"
        ) from error
    skipped: dict[str, str] = {}
    with _client(job.config) as (client, threads):
        job = replace(job, config=job.config.model_copy(update={"threads": threads}))
        images = {task: [image for image in task.images if image is not None] for task in tasks}
        futures = {
            client.submit(
                make_shard,
                job,
                task,
                {image.image_id: records[image.image_id] for image in images[task]},
                key=f"shard-{task.shard}-{job.writer.token}",
                retries=RETRIES,
            ): task
            for task in tasks
        }
        try:
            for future in _as_completed(client, set(futures)):
                result = future.result()
                if isinstance(result, SSRError):
                    raise result
                skipped |= result
                for _ in images[futures[future]]:
                    image_done()
        except KilledWorker as error:
            raise ConfigError(
                f"workers of dask died again and again at one shard ({error.task}): give them more "
                "memory, or lower embed.batch_tiles or embed.workers"
            ) from error
        except FutureCancelledError as error:
            raise ConfigError(
                "the scheduler of dask is gone: start it and run again, shards that are done stay"
            ) from error
        finally:
            client.cancel([future for future in futures if not future.done()])
    return skipped


def make_shard(
    job: ShardJob, task: ShardTask, records: Mapping[str, ImageRecord]
) -> dict[str, str] | SSRError:
    """Embed and write one shard in a worker; return the images that were skipped -> why.

    An error that the user can mend is returned, not raised: dask would try it again.
    """
    config = job.config
    try:
        with _encoding, cpu_threads(config.threads):
            teacher = _teacher(config)
            if teacher.weights_sha256 != job.weights_sha256:
                raise CheckpointError(
                    f"{config.weights}: a worker finds other weights there than the process that "
                    "asked; give all machines the same file"
                )
            shards = embed_shards(
                [task],
                teacher=teacher,
                records=records,
                root=job.root,
                overlap=config.overlap,
                batch_tiles=config.batch_tiles,
                skip_bad=config.on_bad_image == "skip",
                image_done=lambda: None,
            )
            with closing(shards):
                (shard,) = shards
        job.writer.write(*shard)
    except SSRError as error:
        return error
    return shard.skipped


def _as_completed(client: Any, pending: set[Any]) -> Iterator[Any]:  # noqa: ANN401
    """Yield futures as they are done; give up where no worker is left to do them."""
    from distributed import wait

    deserted = 0
    while pending:
        try:
            done, pending = wait(pending, timeout=PATIENCE_S, return_when="FIRST_COMPLETED")
        except TimeoutError:
            deserted = 0 if client.scheduler_info()["workers"] else deserted + 1
            if deserted == 2:  # a nanny starts a worker anew within seconds
                raise ConfigError(
                    "no worker of dask is left: start some and run again, shards that are done stay"
                ) from None
        else:
            yield from done


def _demand_workers(client: Any, address: str) -> None:  # noqa: ANN401
    """Refuse a cluster without workers, or whose workers do not know this code."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
        client.run(import_module, __name__)
    except TimeoutError as error:
        raise ConfigError(f"the scheduler at {address} has no workers: start some") from error
    except ImportError as error:
        raise ConfigError(
            f"the workers of {address} cannot import this project ({error}): install it there"
        ) from error


@cache
def _teacher(config: EmbedConfig) -> Teacher:
    """Load the teacher once per worker."""
    return load_teacher(config)


@contextmanager
def _client(config: EmbedConfig) -> Iterator[tuple[Any, int | None]]:
    """Yield a client, and how many threads each worker encodes with."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)  # of workers that come and go
    if config.scheduler is not None:
        try:
            client = Client(config.scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"embed.scheduler: no dask scheduler answers at {config.scheduler}: start one, or "
                "set it to null"
            ) from error
        with client, client.as_current():
            _demand_workers(client, config.scheduler)
            yield client, config.threads
        return
    devices, threads = _workers(config)
    options = {
        "nthreads": WRITERS,
        "memory_limit": 0,
        "dashboard": False,
        "silence_logs": logging.ERROR,
    }
    workers = {
        number: {"cls": Nanny, "options": options | {"env": environment}}
        for number, environment in enumerate(devices)
    }
    here = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    here["dashboard_address"] = "127.0.0.1:0"  # of its HTTP server; two runs would want one port
    with _deaf_to_interrupts():
        cluster = SpecCluster(
            workers, {"cls": Scheduler, "options": here}, silence_logs=logging.ERROR
        )
    with cluster, Client(cluster, set_as_default=False) as client, client.as_current():
        yield client, threads


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Start processes and threads that Ctrl-C does not reach.

    A terminal sends it to all processes; workers would print tracebacks, where this process alone
    has to end them.
    """
    resource_tracker.ensure_running()  # its start would let interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _workers(config: EmbedConfig) -> tuple[list[dict[str, str]], int | None]:
    """Return the environment of each worker, and the threads that it encodes with."""
    import torch

    if config.device != "cpu" and torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
        count = config.workers or len(gpus)
        return [{"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(count)], config.threads
    cores = os.cpu_count() or 1
    count = config.workers or max(1, cores // (config.threads or cores))
    return [{} for _ in range(count)], config.threads or max(1, cores // count)
