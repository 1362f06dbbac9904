"""Joining the other processes of `torchrun`, one per GPU, and speaking with one voice."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

from store.errors import ConfigError, SSRError

if TYPE_CHECKING:  # torch
    from torch.distributed.distributed_c10d import Store

    from stages.train.ranks import Ranks

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others, also while the first one validates."""

_ECHO = timedelta(seconds=3)
"""How long a mistake waits for the first process to report the same one."""


@contextmanager
def joined() -> Iterator["Ranks"]:
    """Join the run that the environment variables of `torchrun` describe; alone without them.

    Only the first process prints progress and results. An error of all is said once, by the first;
    one of a single process is said by that one.

    Raises:
        ConfigError: If the other processes cannot be reached.
        SSRError: From the block.
    """
    from pipeline.console import activity

    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    with activity("loading PyTorch") if alone else nullcontext():
        from stages.train.ranks import ALONE, Ranks
    if alone:
        yield ALONE
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the processes of this run do not find each other ({reason}); start them with "
            "`torchrun --nproc-per-node N -m pipeline.cli train`"
        ) from error
    ranks = Ranks(rank, count, int(os.environ.get("LOCAL_RANK", rank)))
    if not ranks.first:
        from pipeline.console import console

        console.quiet = True
        logging.disable(logging.WARNING)
    try:
        yield ranks
    except SSRError as error:
        if _said_by_first(store, ranks, error):
            sys.exit(2)
        raise
    dist.destroy_process_group()


def _said_by_first(store: "Store", ranks: "Ranks", error: SSRError) -> bool:
    """Tell whether the first process reports this error, or a better one, too."""
    from stages.train.ranks import RankLostError

    try:
        if ranks.first:
            store.set("ssr/error", str(error))
            return False
        store.wait(["ssr/error"], _ECHO)
        return isinstance(error, RankLostError) or store.get("ssr/error").decode() == str(error)
    except RuntimeError:  # it has said nothing, or its store went with it
        return False
