"""What `prepare` finds odd in datasets, and says without refusing them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.prepare.manifest import Manifest
from stages.prepare.pixels import read_train_ids
from stages.prepare.stage import findings
from tests.prepare.conftest import Prepare, folder_config, ids, photo, save


def save_turned(path: Path, pixels: NDArray[np.uint8], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "label_orientation", "size", "open_"),
    [
        (3, 3, (20, 30), False),
        (None, 4, (20, 30), True),
        (6, None, (20, 30), False),
        (6, None, (24, 24), True),
    ],
)
def test_a_turn_that_sizes_leave_open_is_said(
    prepare: Prepare,
    own_data: Path,
    orientation: int | None,
    label_orientation: int | None,
    size: tuple[int, int],
    open_: bool,
) -> None:
    image, label = own_data / "train/images/a/1.jpg", own_data / "train/labels/a/1.png"
    save_turned(image, photo(1, size), orientation or 1)
    save_turned(label, ids(0, 7, size=size), label_orientation or 1)
    found = prepare(folder_config(own_data)).findings
    assert [finding.partition(" images")[0] for finding in found] == (
        ["source train: 1 of 3"] if open_ else []
    )


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_label_lies_on_its_turned_image_however_it_was_drawn(
    prepare: Prepare, own_data: Path, orientation: int, upright: bool
) -> None:
    shown = ids(0, 7, 255, size=(30, 20))
    turned = read_as_stored(shown, orientation)
    save_turned(own_data / "train/images/a/1.jpg", np.stack([turned] * 3, 2), orientation)
    save(own_data / "train/labels/a/1.png", shown if upright else turned)
    result = prepare(folder_config(own_data))
    record = result.manifest.records[0]
    labels = result.manifest.labels["source"]
    assert (
        read_train_ids(record, own_data, labels).tolist() == ids(0, 1, 255, size=(30, 20)).tolist()
    )


def read_as_stored(shown: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the turn of a camera that was held on its side."""
    return {5: shown.T, 6: np.rot90(shown), 7: np.rot90(shown, 2).T, 8: np.rot90(shown, -1)}[
        orientation
    ]


def test_images_of_other_sizes_are_said(prepare: Prepare, own_data: Path) -> None:
    save(own_data / "train/images/a/1.jpg", photo(1, (5, 7)))
    save(own_data / "train/labels/a/1.png", ids(0, 7, size=(5, 7)))
    (finding,) = prepare(folder_config(own_data)).findings
    assert finding.startswith("source train: 1 of 3 images have 16 times more or fewer pixels")


def test_images_of_one_channel_among_others_are_said(prepare: Prepare, own_data: Path) -> None:
    save(own_data / "train/images/a/1.jpg", photo(1)[..., 0])
    (finding,) = prepare(folder_config(own_data)).findings
    assert finding.startswith("source train: 1 of 3 images have one channel")


def test_labels_that_look_resampled_are_said_now_and_later(
    prepare: Prepare, own_data: Path
) -> None:
    for seed, image in enumerate((own_data / "train" / "images").rglob("*.jpg")):
        save(image, photo(seed, (90, 30)))
        soft = ids(0, 8, size=(90, 30))
        soft[:, 15] = 7
        save(own_data / "train" / "labels" / image.parent.name / f"{image.stem}.png", soft)
    save(own_data / "val" / "labels" / "v.png", ids(0))
    result = prepare(folder_config(own_data))
    (finding,) = result.findings
    assert finding.startswith("source train: 3 of 3 labels look resampled or lossily compressed: ")
    assert finding.endswith("; the first is train/labels/a/1.png")
    assert findings(Manifest.read(result.path)) == [finding]
    again = prepare(folder_config(own_data))
    assert (again.changed, again.findings) == (False, result.findings)


def test_images_of_two_splits_are_counted_and_the_first_is_named(
    prepare: Prepare, own_data: Path
) -> None:
    save(own_data / "val" / "images" / "w.jpg", photo(1))  # a/2.jpg of train
    save(own_data / "val" / "labels" / "w.png", ids(0, 7))
    (finding,) = prepare(folder_config(own_data)).findings
    assert finding == (
        "source train and source val share 1 images, byte for byte; the first is "
        "train/images/a/2.jpg, there val/images/w.jpg"
    )
