"""Shards made by many processes: a dask cluster on this machine, or one that is there already.

A task is a whole shard: the worker reads its images, embeds and writes them under the lease of the
process that asked, and nothing but the shard's name travels back. A worker that dies costs the
shards in its hands; the others' stay, and those are given to somebody else.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Lock
from typing import Any, Final

from stages.embed.config import EmbedConfig
from stages.embed.stores import require_weights
from stages.embed.task import WRITERS, embed_shards
from stages.embed.teachers.encoder import Encoder
from stages.prepare.manifest import ImageRecord
from store.errors import ConfigError, SSRError
from store.shard_writer import ShardTask, ShardWriter

RETRIES: Final = 2
"""Of a shard whose worker lives and met something unforeseen, such as a lost network drive."""

CONNECT_S: Final = 10.0
"""How long to wait for a scheduler, and for its first worker, to answer."""

PATIENCE_S: Final = 15.0
"""How often to look whether there are workers at all."""

_encoding = Lock()


def run_dask(
    config: EmbedConfig,
    tasks: Sequence[ShardTask],
    records: Mapping[str, ImageRecord],
    *,
    root: Path,
    writer: ShardWriter,
    image_done: Callable[[], None],
) -> None:
    """Let dask's workers embed and write shards.

    `records` are rows of the manifest by image id, whose paths start from `root`; `image_done` is
    called for each image once its shard is on the disk.

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
    with _client(config) as (client, threads):
        # Paths are absolute: workers start in other folders.
        changes = {"teacher": config.teacher.absolute(), "threads": threads}
        futures = {}
        for task in tasks:
            needed = {image.image_id: records[image.image_id] for image in task.images if image}
            future = client.submit(
                make_shard,
                task,
                needed,
                config=config.model_copy(update=changes),
                root=root.absolute(),
                writer=writer,
                gpus=_gpus(config),
                key=f"shard-{task.shard}-{writer.token}",
                retries=RETRIES,
            )
            futures[future] = len(needed)
        try:
            for future in _as_completed(client, set(futures)):
                if (refusal := future.result()) is not None:
                    raise refusal
                for _ in range(futures[future]):
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


def make_shard(
    task: ShardTask,
    records: Mapping[str, ImageRecord],
    *,
    config: EmbedConfig,
    root: Path,
    writer: ShardWriter,
    gpus: Sequence[str],
) -> SSRError | None:
    """Embed and write one shard in a worker; those of this machine share `gpus`, each its own.

    An error that the user can correct is returned, not raised: dask would try it again.
    """
    if gpus:  # CUDA reads it once, when the teacher is loaded
        from distributed import get_worker

        own = int(get_worker().name) % len(gpus)
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[own]
    try:
        with _encoding:
            encoder = _encoder(config)
            require_weights(config, encoder, writer.spec)
            bases = writer.read_bases(task.levels)
            (shard,) = embed_shards(
                [task], config=config, encoder=encoder, records=records, root=root, bases=bases
            )
        writer.write(task, shard.features())
    except SSRError as error:
        return error
    return None


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


@cache
def _encoder(config: EmbedConfig) -> Encoder:
    """Load the teacher once per worker."""
    return config.load_encoder()


@contextmanager
def _client(config: EmbedConfig) -> Iterator[tuple[Any, int | None]]:
    """Yield a client, and how many threads each worker encodes with."""
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.ERROR)  # of workers that come and go
    if (address := config.scheduler) is not None:
        try:
            client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"embed.scheduler: no dask scheduler answers at {address}: start one, or set it to "
                "null"
            ) from error
        with client, client.as_current():
            try:
                client.wait_for_workers(1, timeout=CONNECT_S)
                client.run(import_module, __name__)
            except TimeoutError as error:
                raise ConfigError(
                    f"the scheduler at {address} has no workers: start some"
                ) from error
            except ImportError as error:
                raise ConfigError(
                    f"the workers of {address} cannot import this project ({error}): install it "
                    "there"
                ) from error
            yield client, config.threads
        return
    options = {"host": "127.0.0.1", "memory_limit": 0, "dashboard_address": None}
    count, threads = _workers(config)
    with _deaf_to_interrupts():
        cluster = LocalCluster(
            count,
            threads_per_worker=WRITERS,
            silence_logs=logging.ERROR,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # or two runs want one port
            **options,
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


def _workers(config: EmbedConfig) -> tuple[int, int | None]:
    """Return how many workers to start, and the threads that each encodes with."""
    gpus, cores = len(_gpus(config)), os.cpu_count() or 1
    if gpus:
        return config.workers or gpus, config.threads
    count = config.workers or max(1, cores // (config.threads or cores))
    return count, config.threads or max(1, cores // count)


def _gpus(config: EmbedConfig) -> list[str]:
    """Return the GPUs that this process may use; none for workers that are there already."""
    import torch

    if config.scheduler is not None or config.device == "cpu" or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(n) for n in range(torch.cuda.device_count())]
