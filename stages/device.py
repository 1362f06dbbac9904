"""Choice of the device, and how it computes: one rule for every stage that runs a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from stages.fields import DeviceName
from store.errors import ConfigError


def pick_device(name: DeviceName, key: str) -> torch.device:
    """Return the device that `key` in the parameters names; `auto` is the GPU where there is one.

    Raises:
        ConfigError: A GPU is asked for and PyTorch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key} is cuda, but PyTorch sees no GPU; set it to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with this many threads on the CPU; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32_on_gpu(kind: Literal["highest", "tf32"]) -> Iterator[None]:
    """Compute products and convolutions of float32 on a GPU in it, or in TF32, both alike.

    PyTorch's own default is a mixture: TF32 in convolutions alone.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
