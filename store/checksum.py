"""The crc32c that follows every chunk of a store, and the index of every shard."""

from typing import Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

CRC_BYTES: Final = 4

_RESIDUE: Final = 0x48674BC7
"""The crc32c of any bytes that end with their own crc32c, little endian."""


def with_crc32c(data: bytes) -> bytes:
    """Return data and its crc32c."""
    return data + int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


def crc32c_is_sound(data: NDArray[np.uint8]) -> bool:
    """Tell whether the last four bytes are the crc32c of those before them."""
    buffer: Any = data  # google_crc32c takes whatever has a buffer
    return len(data) > CRC_BYTES and bool(google_crc32c.value(buffer) == _RESIDUE)
