"""Reading the images of a manifest: what is read is what the manifest describes, or an error."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.prepare.labels import LabelTable
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import decode_image, decode_label, read_bytes
from store.errors import DataError
from store.fingerprint import sha256


def read_raw(record: ImageRecord, root: Path) -> NDArray[np.uint8]:
    """Read an image of the manifest.

    Hashing costs a few percent of decoding, and saves training on pixels whose features are those
    of another image.

    Args:
        record: The image.
        root: Folder of its domain.

    Returns:
        uint8 (H, W, 3) RGB at raw size.

    Raises:
        DataError: The file is missing, or has changed since the manifest was made.
    """
    path = root / record.image
    return decode_image(_read_unchanged(path, record.sha256), path).rgb


def read_train_ids(record: ImageRecord, root: Path, labels: LabelTable) -> NDArray[np.uint8]:
    """Read the label of an image of the manifest.

    Args:
        record: The image; it must have a label.
        root: Folder of its domain.
        labels: Meaning of the file's values.

    Returns:
        uint8 (H, W) train ids at raw size, 255 is ignored.

    Raises:
        DataError: The file is missing, or has changed since the manifest was made.
    """
    assert record.label is not None, "only labelled records are read for their label"
    assert record.label_sha256 is not None, "a label in the manifest has its hash"
    path = root / record.label
    data = _read_unchanged(path, record.label_sha256)
    label = decode_label(data, path)
    if label.values.shape[:2] != record.raw_size_px:  # drawn on the pixels before they were turned
        image = root / record.image
        turned_by = decode_image(_read_unchanged(image, record.sha256), image).orientation
        label = decode_label(data, path, orientation=turned_by)
    try:
        return labels.to_train_ids(label)
    except DataError as error:
        raise DataError(f"{path}: {error}: correct the label or run `ssr prepare` again") from error


def _read_unchanged(path: Path, digest: str) -> bytes:
    data = read_bytes(path)
    if sha256(data) != digest:
        raise DataError(
            f"{path}: has changed since the manifest was made: run `ssr prepare`, then `ssr embed`"
        )
    return data
