"""Choice of the device: one rule for every stage that runs a network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stages.fields import DeviceName
from store.errors import ConfigError


def pick_device(name: DeviceName, key: str) -> torch.device:
    """Return the device of this name; `auto` is the GPU where there is one.

    Args:
        name: Value from the parameters.
        key: Where it stands there, for the message.

    Raises:
        ConfigError: If a GPU is asked for and PyTorch sees none.
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
