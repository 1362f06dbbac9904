"""Files of weights: one that is damaged is told from one that cannot be read now."""

import errno
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.errors import CheckpointError, SSRError, is_out_of_memory


@contextmanager
def reading(path: Path, fault: str, cure: str) -> Iterator[None]:
    """Say in one line why the block failed to read a file; our own errors pass.

    Args:
        path: The file.
        fault: What is wrong where its content fails.
        cure: What to do then.

    Raises:
        CheckpointError: From whatever ended the block.
    """
    try:
        yield
    except SSRError:
        raise
    except Exception as error:  # a damaged pickle can trip the reader in any way
        if is_out_of_memory(error) or _unreadable(error):
            reason = getattr(error, "strerror", None) or f"{error}".partition("\n")[0]
            raise CheckpointError(
                f"{path} cannot be read now and may well be sound ({reason or 'out of memory'}); "
                "free memory or look at the disk, then run the command again"
            ) from error
        raise CheckpointError(f"{path} {fault} ({type(error).__name__}); {cure}") from error


def check_bytes(path: Path) -> None:
    """Read a whole file of `torch.save`: `torch.load` looks at no checksum.

    Raises:
        zipfile.BadZipFile: If a part of it is not what was written.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)


def _unreadable(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno != errno.EINVAL  # where a damaged index of the archive points
    return isinstance(error, RuntimeError) and ("CUDA" in f"{error}" or "read failed" in f"{error}")
