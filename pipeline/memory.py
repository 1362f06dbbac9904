"""How much memory a process has held."""

import re
from pathlib import Path


def peak_bytes() -> int | None:
    """Return the most resident memory this process has held; None where Linux is not the system.

    Linux's VmHWM, not `ru_maxrss`, which starts at the parent's.
    """
    status = Path("/proc/self/status")
    found = (
        re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.M) if status.is_file() else None
    )
    return int(found[1]) * 1024 if found else None
