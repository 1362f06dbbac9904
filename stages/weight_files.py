"""Weight files made elsewhere: their tensors freed of wrappers, or one line on what is wrong."""

import errno
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import safetensors.torch
import torch
from torch import Tensor

from store.atomic import TEMPORARY_SUFFIX, replacing
from store.errors import CheckpointError, SSRError, is_out_of_memory

_TABLES: Final = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""Keys below which trainers keep the table of tensors."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read a file of PyTorch or safetensors; one that could run code is refused.

    It is a table of tensors, or a checkpoint that has one as its `state_dict`, `model`, ...

    Returns:
        The tensors on the CPU under their names in the table, and mmcv's `meta`, empty without.

    Raises:
        CheckpointError: The file is missing, unreadable or damaged, holds something else than
            tensors, or values that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist as a file; download it or correct the path")
    with reading(path, "is damaged or not a weight file", "download it again"):
        table = _load(path)
    meta: Any = table.get("meta") if isinstance(table, dict) else None
    while isinstance(table, dict) and (
        below := [table[key] for key in _TABLES if isinstance(table.get(key), dict)]
    ):
        table = below[0]
    tensors = {}
    if isinstance(table, dict):  # a trainer's counters may lie beside the tensors
        tensors = {name: value for name, value in table.items() if torch.is_tensor(value)}
    if not tensors or not all(_is_weight(*item) for item in tensors.items()):
        found = f" ({', '.join(map(str, [*table][:4]))})" if isinstance(table, dict) else ""
        raise CheckpointError(
            f"{path} holds no table of tensors{found}; give a file of network weights"
        )
    require_finite(tensors, path, "get the file again")
    return tensors, meta if isinstance(meta, dict) else {}


def require_finite(tensors: Mapping[str, Tensor], path: Path, cure: str) -> None:
    """Raise CheckpointError for the first tensor of a file that holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; {cure}")


def prefixes_of(names: Iterable[str], anchor: str) -> list[str]:
    """Return what stands before a name, shortest first: `module.` for `module.norm1.weight`."""
    before = {name.removesuffix(anchor) for name in names if name.endswith(anchor)}
    return sorted((p for p in before if not p or p.endswith(".")), key=lambda p: (len(p), p))


class Differences(NamedTuple):
    """Names by which a file differs from a network, each once; shapes stand behind theirs."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    def summary(self) -> str:
        """Count the names of each kind and show the first; empty where nothing differs."""
        kinds = zip(("missing", "unexpected", "of other shape"), self, strict=True)
        return "; ".join(
            f"{len(names)} {kind}: {names[0]}"
            + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for kind, names in kinds
            if names
        )


def differences(
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    unknown: Sequence[str] = (),
    shown: Callable[[str], str] = str,
) -> Differences:
    """Compare the names and shapes of a network's state and of what a file has for it.

    `unknown` are further names of the file, which no rule translates; `shown` turns our name into
    that of the file, where several of ours may be one.
    """
    kinds = (
        [shown(name) for name in wanted if name not in given],
        [*unknown, *(shown(name) for name in given if name not in wanted)],
        [
            f"{shown(name)} {tuple(given[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
    )
    return Differences(*(tuple(dict.fromkeys(names)) for names in kinds))


def _check_checksums(path: Path) -> None:
    """Read a whole weight file, as `torch.load` looks at no checksum; BadZipFile if damaged."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)


@contextmanager
def reading(path: Path, fault: str, cure: str) -> Iterator[None]:
    """Raise CheckpointError, in one line, where the block fails to read a file; ours pass.

    `fault` and `cure` are what is wrong where its content fails, and what to do then.
    """
    try:
        yield
    except SSRError:
        raise
    except Exception as error:  # a damaged pickle can trip the reader in any way
        if _may_be_sound(error):
            reason = getattr(error, "strerror", None) or f"{error}".partition("\n")[0]
            fault = f"cannot be read now and may well be sound ({reason or 'out of memory'})"
            cure = "look at permissions, disk and free memory, then run the command again"
        elif other := re.search(r"GLOBAL (\S+)|Unsupported class (\S+)", str(error)):
            fault = f"holds other Python objects ({other[1] or other[2]}), which can run code"
            cure = "where you trust it, load it and save its state_dict alone"
        else:
            fault = f"{fault} ({type(error).__name__})"
        raise CheckpointError(f"{path} {fault}; {cure}") from error


class Part(Protocol):
    """What a checkpoint holds the state of: a network, an optimiser, curves."""

    def state_dict(self) -> Any: ...  # noqa: ANN401, D102

    def load_state_dict(self, state: Any, /) -> Any: ...  # noqa: ANN401, D102


def save_parts(path: Path, parts: Mapping[str, Part], header: Mapping[str, object]) -> None:
    """Write a checkpoint of parts by name; a kill leaves the old file or the new one."""
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path, path.name + TEMPORARY_SUFFIX) as file:
        try:
            torch.save({**header, **state}, file)
        except RuntimeError as error:  # PyTorch's own, which hides what the disk said
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_parts(
    path: Path,
    parts: Mapping[str, Part],
    *,
    header: Mapping[str, object],
    device: torch.device,
    cure: str,
) -> Mapping[str, Any] | None:
    """Let parts take over what `save_parts` wrote; return all of it, or None where there is none.

    Its header must have the values of `header`; `cure` says what to do where it has others.

    Raises:
        CheckpointError: The file is of another run, damaged, or cannot be read now.
    """
    if not path.is_file():
        return None
    with reading(path, "is a damaged checkpoint", "delete it to train anew"):
        _check_checksums(path)
        saved = torch.load(path, map_location=device, weights_only=True)
        if any(saved[key] != value for key, value in header.items()):
            raise CheckpointError(f"{path} is of another run; {cure}")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        found: Mapping[str, Any] = saved
        return found


def _load(path: Path) -> Any:  # noqa: ANN401 - whatever a file holds
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # whatever its name: a JSON header of 8+ bytes
    if is_safetensors:
        return safetensors.torch.load(path.read_bytes())
    zipped = zipfile.is_zipfile(path)
    if zipped:  # older files carry no checksums
        _check_checksums(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def _may_be_sound(error: Exception) -> bool:
    """Tell a file that could not be looked at from one that is broken."""
    if isinstance(error, OSError):
        return error.errno != errno.EINVAL  # where a damaged index of the archive points
    return is_out_of_memory(error) or (
        isinstance(error, RuntimeError) and ("CUDA" in f"{error}" or "read failed" in f"{error}")
    )


def _is_weight(name: object, tensor: Tensor) -> bool:
    return (
        isinstance(name, str)
        and tensor.layout == torch.strided
        and not tensor.is_complex()
        and (tensor.ndim > 0 or not name.endswith((".weight", ".bias")))
    )
