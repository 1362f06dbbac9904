"""Disks that are too small or must not be written, and processes that may not write much."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

PAGE_BYTES: Final = 4096
"""What a tmpfs counts in."""


@dataclass(frozen=True)
class Disk:
    """A tmpfs of its own."""

    folder: Path

    def change(self, options: str) -> None:
        """Change its size, or whether it can be written."""
        _mount("-o", f"remount,{options}", str(self.folder))


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Disk]:
    """Mount a tmpfs over a folder; skip the test where nobody lets us mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    if obstacle := _why_not_mount():
        pytest.skip(f"needs a tmpfs of its own: {obstacle}")
    _mount("-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def obey_permissions() -> None:
    """Give up root's right to write where the permission bits say no."""
    _override_permissions(False)


@contextmanager
def obeying_permissions() -> Iterator[None]:
    """Do without root's right for a while; it is this thread's."""
    obey_permissions()
    try:
        yield
    finally:
        _override_permissions(True)


def _override_permissions(allowed: bool) -> None:
    """Use, or do not use, the right to override permissions, which root keeps in reserve."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    capabilities = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, capabilities) == 0, os.strerror(ctypes.get_errno())
    override = 1 << 1  # CAP_DAC_OVERRIDE
    capabilities[0] = capabilities[0] | override if allowed else capabilities[0] & ~override
    assert libc.capset(header, capabilities) == 0, os.strerror(ctypes.get_errno())


@cache
def _why_not_mount() -> str | None:
    """Mount a plain tmpfs once; return what is in the way, on this machine or for this user."""
    with TemporaryDirectory() as folder:
        try:
            _mount("-t", "tmpfs", "tmpfs", folder)
        except FileNotFoundError:
            return "there is no command `mount`"
        except subprocess.CalledProcessError as error:
            return str(error.stderr).strip()
        subprocess.run(["umount", "-l", folder], check=True)
    return None


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
