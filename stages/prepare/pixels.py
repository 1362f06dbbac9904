"""Decoding, resizing and cutting of images and labels.

One policy for both, so that a label lies on its image:

- Only regular files are read, only as `FORMATS`, whatever their names say.
- Pixels are turned upright as EXIF says. A label without the tag whose image has it may be drawn on
  either: `measure` asks the sizes, and what these leave open is a finding.
- More than 8 bits per channel are refused, for Pillow would drop bits; but for SYNTHIA's labels.
- Labels are refused where a lossy format has changed their values. Transparent pixels have no
  class, half transparent ones are refused; palettes are a matter of `train_ids`.

H W pixels of the raw image, h w pixels of the resized image; colours are RGB.
"""

import errno
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from stages.prepare.geometry import Size
from stages.prepare.labels import IGNORE, LabelTable, StoredLabel, to_train_ids
from stages.prepare.manifest import ImageRecord
from store import atomic
from store.errors import DataError, DataUnreadableError
from store.fingerprint import sha256

MEAN: Final = (123.675, 116.28, 103.53)
STD: Final = (58.395, 57.12, 57.375)
_CENTRED: Final = (np.arange(256)[:, None] - np.array(MEAN)).astype(np.float32)
_NORMALISED: Final = (_CENTRED * (1 / np.array(STD))).astype(np.float32)[None]
"""float32 (1, 256, 3): the normalised value of every byte, rounded once as mmcv does."""

FORMATS: Final = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""What Pillow may take a file for: nothing that starts a program or reads another file."""

# Each format has its own way to fail.
DAMAGED: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, KeyError)
"""What Pillow raises for damaged files, beside DecompressionBombError."""

_COLOUR_MODES = {"RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "1", "CMYK", "YCbCr"}
_ORIENTATION: Final = 0x0112  # the tag of EXIF and TIFF
_BITS_PER_SAMPLE: Final = 258  # of TIFF
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Loader workers and scan threads are the parallelism; OpenCV's own threads would compete with them.
cv2.setNumThreads(0)
warnings.filterwarnings("ignore", module="PIL")  # it warns of large images and of odd EXIF


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as its file holds it, uint8 (H, W, 3), upright."""

    rgb: NDArray[np.uint8]
    one_channel: bool  # greyscale or paletted, as files of class ids are
    orientation: int  # of EXIF, that it was turned upright by; 1 if it needed no turn


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as uint8 (H, W, 3) RGB, upright as its EXIF orientation says.

    Raises:
        DataError: The file is missing, truncated, not an image or not of 8 bits per channel.
    """
    return decode_image(read_bytes(path), path).rgb


def read_label(path: Path) -> StoredLabel:
    """Read a label; as `decode_label`."""
    return decode_label(read_bytes(path), path)


def read_raw(record: ImageRecord, root: Path) -> NDArray[np.uint8]:
    """Read an image of the manifest below its domain's root, as uint8 (H, W, 3) RGB at raw size.

    Hashing costs a few percent of decoding, and saves training on pixels whose features are those
    of another image.

    Raises:
        DataError: The file is missing, or has changed since the manifest was made.
    """
    path = root / record.image
    try:
        return decode_image(_read_unchanged(path, record.sha256), path).rgb
    except DataError as error:
        if record.domain != "restyled" or isinstance(error, DataUnreadableError):
            raise
        raise DataError(
            f"{path}: is missing or not what was made: run `ssr restyle`, which makes it again"
        ) from error


def read_train_ids(record: ImageRecord, root: Path, labels: LabelTable) -> NDArray[np.uint8]:
    """Read the label of an image of the manifest, as uint8 (H, W) train ids at raw size.

    Raises:
        DataError: The file is missing, or has changed since the manifest was made.
    """
    assert record.label is not None
    assert record.label_sha256 is not None
    path = root / record.label
    data = _read_unchanged(path, record.label_sha256)
    label = decode_label(data, path)
    if label.values.shape[:2] != record.raw_size_px:  # drawn on the pixels before they were turned
        image = root / record.image
        turned_by = decode_image(_read_unchanged(image, record.sha256), image).orientation
        label = decode_label(data, path, orientation=turned_by)
    try:
        return to_train_ids(label, labels)
    except DataError as error:
        raise DataError(f"{path}: {error}: correct the label or run `ssr prepare` again") from error


def decode_image(data: bytes, path: Path) -> StoredImage:
    """Decode the bytes of an image file; as `read_image`, `path` is for messages."""
    image, _, bits, orientation = _decode(data, path)
    if bits > 8 or image.mode not in _COLOUR_MODES:
        raise DataError(
            f"{path}: pixel mode {image.mode} of {bits} bits per channel is not 8-bit colour: "
            "convert it to 8-bit RGB by the range of its own values"
        )
    one_channel = image.mode in {"1", "L", "LA", "P", "PA"}
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow wants the detour, and warns otherwise
    return StoredImage(np.array(image.convert("RGB")), one_channel, orientation)


def decode_label(data: bytes, path: Path, *, orientation: int = 1) -> StoredLabel:
    """Decode the bytes of a label file; `to_train_ids` gives the values their meaning.

    A label without an EXIF orientation is turned by `orientation`.

    Returns:
        Ids of a greyscale or paletted file, or of a 16-bit RGB PNG, whose red channel they are, as
        in SYNTHIA; or colours of an RGB file.

    Raises:
        DataError: The file is truncated, not an image, of another kind, of a lossy format or partly
            half transparent.
    """
    label, kind, bits, turned_by = _decode(data, path)
    is_lossy = {
        "JPEG": True,
        "MPO": True,
        "WEBP": b"VP8 " in data,  # the chunk of lossy pixels
        "TIFF": label.info.get("compression") in {"jpeg", "tiff_jpeg", "webp"},
    }
    if is_lossy.get(kind):
        raise DataError(
            f"{path}: is {kind} inside, a lossy format, which holds no exact values: save labels "
            "as PNG from before they were compressed"
        )
    if kind == "PNG" and bits > 8 and label.mode in {"RGB", "RGBA"}:
        label = _turn(_red_ids(data, path), turned_by)
    elif label.mode != "P" and (bits != 8 or label.mode not in {"L", "LA", "RGB", "RGBA"}):
        raise DataError(
            f"{path}: pixel mode {label.mode} of {bits} bits per channel is not a label: save "
            "class ids as an 8-bit greyscale or paletted PNG"
        )
    if turned_by == 1:
        label = _turn(label, orientation)
    else:
        orientation = turned_by
    opaque = _opaque(label, path)
    palette = None
    if label.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        colors = np.array(label.getpalette(), np.uint8).reshape(-1, 3)
        palette[: len(colors)] = colors
    if label.mode in {"LA", "RGBA"}:
        label = label.convert(label.mode.removesuffix("A"))
    return StoredLabel(np.array(label), palette, opaque, orientation)


def resize_image(rgb: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an image (H, W, 3) bilinearly to (h, w, 3), as the papers do (mmcv's `imrescale`)."""
    resized: NDArray[np.uint8] = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


def resize_label(ids: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize a label (H, W) to (h, w) by OpenCV's nearest, as mmcv's `imrescale` does."""
    resized: NDArray[np.uint8] = cv2.resize(ids, size[::-1], interpolation=cv2.INTER_NEAREST)
    return resized


def normalised_window(
    resized: NDArray[np.uint8], y: int, x: int, height: int, width: int
) -> NDArray[np.float32]:
    """Cut a window of the working image out of the resized one (h, w, 3), normalised.

    `y` and `x` are not negative; the window may extend past the image's bottom, and its right.

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
    """Cut a window as `normalised_window` out of the resized label (h, w); padding is IGNORE."""
    inside = resized[y : y + height, x : x + width]
    window = np.full((height, width), IGNORE, np.uint8)
    window[: inside.shape[0], : inside.shape[1]] = inside
    return window


def read_bytes(path: Path) -> bytes:
    """Read a file of the dataset; DataError where that fails or it is a pipe or a device."""
    try:
        return atomic.read_bytes(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}): put the file there, or run `ssr prepare` "
            "again if the dataset has changed"
        ) from error
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise DataError(f"{path}: is not a regular file: exclude or move it") from error
        raise DataUnreadableError(
            f"{path}: cannot be read now and may well be sound ({error.strerror}): look at "
            "permissions and disk, then run the command again"
        ) from error


def _read_unchanged(path: Path, digest: str) -> bytes:
    data = read_bytes(path)
    if sha256(data) != digest:
        raise DataError(
            f"{path}: has changed since the manifest was made: run `ssr prepare`, then `ssr embed`"
        )
    return data


def _decode(data: bytes, path: Path) -> tuple[Image.Image, str, int, int]:
    """Decode completely, so that a truncated file is noticed.

    Returns:
        Upright pixels, the format, bits of a channel, and EXIF orientation, 1 without.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        bits = _bits(image, data)
        turned_by = image.getexif().get(_ORIENTATION, 1) if image.format == "TIFF" else 1
        image.load()  # turns a TIFF
    except (*DAMAGED, Image.DecompressionBombError) as error:
        reason = str(error).split("<", 1)[0].strip() or type(error).__name__
        raise DataError(
            f"{path}: is damaged or not an image ({reason}): fetch the file again or remove it"
        ) from error
    kind = image.format or "file"
    upright: Image.Image = image
    if kind != "TIFF":
        with suppress(*DAMAGED):  # odd EXIF says nothing
            turned_by = image.getexif().get(_ORIENTATION, 1)
        upright = _turn(image, turned_by)
    return upright, kind, bits, turned_by if turned_by in _TURNS else 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turn pixels upright; an orientation that there is not is none."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _bits(image: ImageFile, data: bytes) -> int:
    """Bits per channel in the file; Pillow drops those beyond 8 without a word."""
    match image:
        case PngImageFile():
            return data[24]  # of the header that every PNG begins with
        case TiffImageFile():
            return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
        case PpmImageFile(tile=[(_, _, _, (_, int(largest)))]):
            return (largest + 1).bit_length() - 1
    return 8


def _opaque(label: Image.Image, path: Path) -> NDArray[np.bool_] | None:
    """Tell opaque pixels (H, W) from transparent ones; None where all are opaque."""
    if label.mode not in {"LA", "RGBA"} and "transparency" not in label.info:
        return None
    alpha = np.array(label.convert("RGBA").getchannel("A"))
    half = int(((alpha > 0) & (alpha < 255)).sum())
    if half:
        raise DataError(
            f"{path}: {half} pixels are half transparent, so their class is open: save it without "
            "alpha, or with alpha 0 where there is no class"
        )
    return None if alpha.all() else alpha > 0


def _red_ids(data: bytes, path: Path) -> Image.Image:
    """Decode red, and alpha if there is one, of a PNG of 16-bit colours that Pillow has read."""
    colours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if colours is None:  # OpenCV is stricter than Pillow, which read it
        raise DataError(f"{path}: is damaged: fetch the file again or remove it")
    red: NDArray[np.uint16] = colours[..., 2]  # OpenCV's order is blue, green, red
    if red.max() > 255:
        raise DataError(
            f"{path}: holds {red.max()} in the red of 16-bit colours, which is not a class id: "
            "save class ids as an 8-bit greyscale or paletted PNG"
        )
    ids = Image.fromarray(red.astype(np.uint8))
    if colours.shape[2] == 3:
        return ids
    return Image.merge("LA", (ids, Image.fromarray((colours[..., 3] >> 8).astype(np.uint8))))
