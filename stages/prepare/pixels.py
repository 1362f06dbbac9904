"""Decoding, resizing and cutting of images and labels.

H W pixels of the raw image, h w pixels of the resized image; colours are RGB.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stages.prepare.geometry import Size
from stages.prepare.labels import IGNORE
from store.errors import DataError

MEAN: Final = (123.675, 116.28, 103.53)
STD: Final = (58.395, 57.12, 57.375)

# What Pillow raises for damaged files, beside OSError: each format has its own way to fail.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, KeyError)
_COLOUR_MODES = {"RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr"}

# Loader workers and scan threads are the parallelism; OpenCV's own threads would compete with them.
cv2.setNumThreads(0)

_quiet_lock = threading.Lock()


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image, upright as its EXIF orientation says.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        DataError: The file is missing, truncated, not an image or not of 8 bits per channel.
    """
    return decode_image(read_bytes(path), path)


def read_label(path: Path) -> NDArray[np.uint8]:
    """Read a label as it is stored; a `LabelTable` gives the values their meaning.

    Returns:
        uint8 (H, W) ids of a greyscale or paletted file (the palette itself is not looked at) or of
        a 16-bit RGB PNG, whose red channel they are, as in SYNTHIA; or uint8 (H, W, 3) colours of
        an RGB file.

    Raises:
        DataError: The file is missing, truncated, not an image or of another kind.
    """
    return decode_label(read_bytes(path), path)


def decode_image(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the bytes of an image file; as `read_image`, `path` is for messages."""
    image = _decode(data, path)
    if image.mode not in _COLOUR_MODES:
        raise DataError(f"{path}: pixel mode {image.mode} is not 8-bit colour: convert it to RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow wants the detour, and warns otherwise
    with _quiet():
        ImageOps.exif_transpose(image, in_place=True)
    return np.array(image.convert("RGB"))


def decode_label(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the bytes of a label file; as `read_label`, `path` is for messages."""
    label = _decode(data, path)
    if _is_deep_png(data):
        return _red_ids(data, path)
    if label.mode == "RGBA":
        label = label.convert("RGB")
    if label.mode not in {"P", "L", "RGB"}:
        raise DataError(
            f"{path}: pixel mode {label.mode} is no label: save class ids as an 8-bit "
            "greyscale or paletted PNG"
        )
    return np.array(label)


def resize_image(rgb: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) bilinearly to (h, w, 3), as the papers do (spec §1.1)."""
    return _resize(rgb, size, cv2.INTER_LINEAR)


def resize_label(ids: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize a label (H, W) to (h, w) by OpenCV's nearest, as the papers do (spec §1.1)."""
    return _resize(ids, size, cv2.INTER_NEAREST)


def normalised_window(
    resized: NDArray[np.uint8], y: int, x: int, height: int, width: int
) -> NDArray[np.float32]:
    """Cut a window of the working image out of the resized one, normalised.

    Args:
        resized: uint8 (h, w, 3), RGB.
        y: Top row in pixels, not negative; likewise `x`.
        x: Left column.
        height: Rows; the window may extend past the image's bottom, and its right.
        width: Columns.

    Returns:
        float32 (3, height, width): `(value - MEAN) / STD`, and 0, the mean colour, in the padding.
    """
    inside = resized[y : y + height, x : x + width]
    window = np.zeros((3, height, width), np.float32)
    if inside.size:
        normalised = cv2.LUT(inside, _NORMALISED)  # (h, w, 3)
        window[:, : inside.shape[0], : inside.shape[1]] = normalised.transpose(2, 0, 1)
    return window


def label_window(
    resized: NDArray[np.uint8], y: int, x: int, height: int, width: int
) -> NDArray[np.uint8]:
    """Cut a window of the working image out of the resized label (h, w).

    Returns:
        uint8 (height, width), 255 in the padding; arguments as in `normalised_window`.
    """
    inside = resized[y : y + height, x : x + width]
    window = np.full((height, width), IGNORE, np.uint8)
    window[: inside.shape[0], : inside.shape[1]] = inside
    return window


def read_bytes(path: Path) -> bytes:
    """Read a file of the dataset; DataError where that fails."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}): put the file there, or run `ssr prepare` "
            "again if the dataset has changed"
        ) from error


def _decode(data: bytes, path: Path) -> Image.Image:
    """Decode completely, so that a truncated file is noticed."""
    try:
        with _quiet():
            image = Image.open(BytesIO(data))
        image.load()
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        reason = str(error).split("<", 1)[0].strip() or type(error).__name__
        raise DataError(
            f"{path}: is damaged or not an image ({reason}): fetch the file again or remove it"
        ) from error
    return image


def _is_deep_png(data: bytes) -> bool:
    """Tell a PNG of 16-bit colours; Pillow drops their low bytes without a word."""
    bits, colour_type = data[24:26]  # of the header that every PNG begins with
    return data.startswith(b"\x89PNG\r\n\x1a\n") and bits == 16 and colour_type in {2, 6}


def _red_ids(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the red channel of a PNG of 16-bit colours, which Pillow has found undamaged."""
    colours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if colours is None:  # OpenCV is stricter than Pillow, which read it
        raise DataError(f"{path}: is damaged: fetch the file again or remove it")
    red: NDArray[np.uint16] = colours[..., 2]  # OpenCV's order is blue, green, red
    if red.max() > 255:
        raise DataError(
            f"{path}: holds {red.max()} in the red of 16-bit colours, which is no class id: save "
            "class ids as an 8-bit greyscale or paletted PNG"
        )
    return red.astype(np.uint8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow, which warns of large images and of odd EXIF.

    Filters of warnings are state of the process, so one thread at a time may be in here; that is
    why headers are read inside and pixels outside.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _resize(array: NDArray[np.uint8], size: Size, interpolation: int) -> NDArray[np.uint8]:
    height, width = size
    if array.shape[:2] == size:
        return array
    resized: NDArray[np.uint8] = cv2.resize(array, (width, height), interpolation=interpolation)
    return resized


def _normalisation_table() -> NDArray[np.float32]:
    """Return float32 (1, 256, 3): the normalised value of every byte, rounded once as mmcv does."""
    centred = (np.arange(256)[:, None] - np.array(MEAN)).astype(np.float32)
    table: NDArray[np.float32] = (centred * (1 / np.array(STD))).astype(np.float32)
    return table[None]


_NORMALISED: Final = _normalisation_table()
