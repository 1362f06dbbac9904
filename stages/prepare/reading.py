"""Reading the images of a manifest: what is read is what the manifest describes, or an error."""

from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.prepare.labels import LabelTable
from stages.prepare.manifest import ImageRecord
from stages.prepare.pixels import decode_image, read_bytes, read_label
from store.errors import DataError


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
    data = read_bytes(path)
    if sha256(data).hexdigest() != record.sha256:
        raise DataError(
            f"{path}: has changed since the manifest was made: run `ssr prepare`, then `ssr embed`"
        )
    return decode_image(data, path)


def read_train_ids(record: ImageRecord, root: Path, labels: LabelTable) -> NDArray[np.uint8]:
    """Read the label of an image of the manifest.

    Args:
        record: The image; it must have a label.
        root: Folder of its domain.
        labels: Meaning of the file's values.

    Returns:
        uint8 (H, W) train ids at raw size, 255 is ignored.

    Raises:
        DataError: The file is missing or damaged, of another size or with unknown values.
    """
    assert record.label is not None, "only labelled records are read for their label"
    path = root / record.label
    stored = read_label(path)
    if stored.shape[:2] != record.raw_size_px:
        height, width = record.raw_size_px
        raise DataError(
            f"{path}: is {stored.shape[1]}x{stored.shape[0]} but was {width}x{height} when the "
            "manifest was made: run `ssr prepare` again"
        )
    try:
        return labels.to_train_ids(stored)
    except DataError as error:
        raise DataError(f"{path}: {error}: correct the label or run `ssr prepare` again") from error
