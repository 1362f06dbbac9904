"""What `prepare` finds odd in datasets, and says without refusing them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.prepare.manifest import Manifest
from stages.prepare.pixels import read_label, read_train_ids
from stages.prepare.scan import rims
from stages.prepare.stage import findings
from tests.prepare.conftest import (
    Prepare,
    folder_config,
    ids,
    photo,
    save,
)


def test_sound_data_needs_no_word(prepare: Prepare, own_data: Path) -> None:
    assert prepare(folder_config(own_data)).findings == ()


def save_turned(path: Path, pixels: NDArray[np.uint8], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize(
    ("orientation", "label_orientation", "size", "open_"),
    [
        (3, None, (20, 30), True),
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


def compress(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(ids).save(file, "JPEG", quality=95)
    return np.array(Image.open(file))


def shrink(how: int, factor: float) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda ids: np.asarray(
        cv2.resize(ids, None, fx=factor, fy=factor, interpolation=how), np.uint8
    )


def again(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge what was shrunk: the rims are two pixels wide."""
    return shrink(cv2.INTER_NEAREST, 2)(shrink(cv2.INTER_AREA, 0.5)(ids))


@pytest.mark.parametrize(
    ("spoil", "looks_so"),
    [
        pytest.param(lambda ids: ids, False, id="sound"),
        pytest.param(shrink(cv2.INTER_NEAREST, 0.5), False, id="nearest"),
        pytest.param(shrink(cv2.INTER_LINEAR, 0.8), True, id="bilinear"),
        pytest.param(again, True, id="rims of two pixels"),
        pytest.param(compress, True, id="jpeg"),
    ],
)
def test_resampled_labels_are_told_from_poles(
    camvid: Path, spoil: Callable[[NDArray[np.uint8]], NDArray[np.uint8]], looks_so: bool
) -> None:
    for path in sorted((camvid / "day_train" / "labels").iterdir())[::20]:
        stored = spoil(read_label(path).values)
        assert (rims(stored, stored, 11) is not None) == looks_so


def test_classes_that_show_mostly_as_rims_are_named(prepare: Prepare, own_data: Path) -> None:
    for seed, image in enumerate((own_data / "train" / "images").rglob("*.jpg")):
        save(image, photo(seed, (90, 30)))
        soft = ids(0, 8, size=(90, 30))
        soft[:, 15] = 7
        save(own_data / "train" / "labels" / image.parent.name / f"{image.stem}.png", soft)
    save(own_data / "val" / "labels" / "v.png", ids(0))
    classes = [{"name": f"c{n}", "color": [n, n, 9], "ids": [n]} for n in (0, 7, 8)]
    result = prepare(folder_config(own_data, classes=classes))
    (finding,) = result.findings
    assert findings(Manifest.read(result.path), unused_labels=0) == result.findings
    assert not prepare(folder_config(own_data, classes=classes)).changed
    assert finding.startswith("source train: 3 of 3 labels look resampled or lossily compressed: ")
    assert "which is most of what they show of c7:" in finding
    assert finding.endswith("; the first is train/labels/a/1.png")
