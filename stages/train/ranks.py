"""The ranks of a run, one process per GPU: which samples each takes, the mean of their gradients.

R ranks share a global batch of B samples; each takes B/R consecutive ones of every batch. Random
choices are those of the global batch, so that a run may be resumed with another R.

What is averaged is exact where a loss is a mean over all pixels of the batch, which every
segmentation loss of `step.py` is: equal shares make the mean of the means the mean. What belongs to
a rank's share alone, as to a GPU's batch in official code:

- the confidence of pseudo-labels, one scalar per rank;
- batch statistics of the batch norms, unless `train.sync_batch_norm`; those kept are rank 0's;
- the cells that feature distance averages over;
- the masks that Mask2Former's loss counts;
- dropout and stochastic depth, drawn per rank.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from stages.device import pick_device
from stages.fields import DeviceName
from store.errors import ConfigError, TrainingError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run; a TrainingError says that another one is gone."""

    rank: int  # 0 alone writes
    count: int  # several have a process group
    local_rank: int  # among those of this machine: its GPU

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """Return this rank's samples of a global batch, which must be cut in equal parts."""
        if batch_size % self.count:
            raise ConfigError(
                f"train.batch_size {batch_size} cannot be shared by {self.count} processes; it is "
                f"the batch of all together: set it to a multiple of {self.count}"
            )
        share = batch_size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def device(self, name: DeviceName) -> torch.device:
        """Return where this process computes: the CPU, or a GPU that must be its own."""
        device = pick_device(name, "train.device")
        if self.count == 1 or device.type == "cpu":
            return device
        there = torch.cuda.device_count()
        if self.local_rank >= there:
            raise ConfigError(
                f"process {self.local_rank} of this machine has no GPU of its own: PyTorch sees "
                f"{there}; start as many processes as GPUs"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one device by their mean over the ranks, in one exchange.

        Ranks get the same bits. float32 in, float32 out.
        """
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _together():
            dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def whole_batch(self, share: Tensor) -> Tensor:
        """Gather the shares (B/R, ...) of all ranks on the CPU: (B, ...)."""
        if self.count == 1:
            return share
        shares = [torch.empty_like(share) for _ in range(self.count)]
        with _together():
            dist.all_gather(shares, share.contiguous())
        return torch.cat(shares)

    def require_equal(self, value: object, what: str) -> None:
        """Wait for all ranks, and stop with a TrainingError where one has another value."""
        if self.count == 1:
            return
        values: list[object] = [None] * self.count
        with _together():
            dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise TrainingError(
                f"the processes of this run disagree about {what}; start all of them with the same "
                "parameters and code, on the same data and in one shared --out folder"
            )


ALONE = Ranks(0, 1, 0)
"""A run of one process, which needs no process group."""

PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others, also while the first one validates."""


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the run that the environment variables of `torchrun` describe; alone without them.

    Only the first rank warns.

    Raises:
        ConfigError: If the other processes cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
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
        logging.disable(logging.WARNING)
    yield ranks
    dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """Say in one line that a rank is gone; its own message, if any, says why."""
    try:
        yield
    except RuntimeError as error:  # PyTorch's, from gloo or NCCL
        raise TrainingError(
            "another process of this run ended or does not answer; its own message says why. "
            "Started again, the run goes on at its last checkpoint"
        ) from error
