"""Fingerprints (SHA-256 of canonical JSON), and the crc32c of chunks and shard indices."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import google_crc32c

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CRC_BYTES: Final = 4

_RESIDUE: Final = 0x48674BC7.to_bytes(CRC_BYTES, "little")
"""The crc32c of any bytes that end with their own crc32c, little endian."""


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - whatever json can write
    """Encode a value as UTF-8 JSON with sorted keys, no blanks and one newline at its end.

    Raises:
        ValueError: The value holds NaN or infinity, which JSON cannot say.
        TypeError: The value holds something that is not JSON.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return f"{text}\n".encode()


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of some bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(value: Any) -> str:  # noqa: ANN401 - whatever json can write
    """Return the SHA-256 of a value's canonical JSON as 64 hex digits."""
    return sha256(canonical_json(value))


def with_crc32c(data: bytes) -> bytes:
    """Return data and its crc32c."""
    return data + crc32c(data)


def crc32c(data: "bytes | NDArray[np.uint8]") -> bytes:
    """Return the crc32c of some bytes, little endian."""
    buffer: Any = data  # google_crc32c takes whatever has a buffer
    return int(google_crc32c.value(buffer)).to_bytes(CRC_BYTES, "little")


def crc32c_is_sound(data: "NDArray[np.uint8]") -> bool:
    """Tell whether the last four bytes are the crc32c of those before them."""
    return len(data) > CRC_BYTES and crc32c(data) == _RESIDUE
