"""Files that are either as before or complete, also after `kill -9` or a power cut."""

import os
import uuid
from pathlib import Path

TEMPORARY_SUFFIX = ".partial"
"""Ending of a file that is being written; one that is left over was interrupted."""


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file by way of a temporary one beside it, creating its folder where needed.

    Raises:
        OSError: The disk is full or not writable; it names the file, which is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a full disk names no file by itself
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as `write_bytes` does."""
    write_bytes(path, text.encode())


def update_bytes(path: Path, data: bytes) -> bool:
    """Write a file unless it holds exactly these bytes already; tell whether it was written.

    An unchanged file keeps its modification time, which DVC and make look at.
    """
    try:
        if path.read_bytes() == data:
            return False
    except FileNotFoundError:
        pass
    write_bytes(path, data)
    return True
