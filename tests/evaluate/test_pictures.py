"""Pictures are read back pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.evaluate.pictures import (
    CELL_PX,
    FULL,
    PANEL_PX,
    colorize,
    confusion_picture,
    read_pictures,
    triptych_png,
)
from stages.prepare.labels import ClassTable

CLASSES = ClassTable(names=("road", "sky"), palette=((255, 0, 0), (0, 0, 255)))
RED, BLUE, BLACK, WHITE = (255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
H, W = 60, 120


def drawn_panels(
    height: int = H, width: int = W
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """A grey image; the label is red, below blue with a void corner; the prediction is blue."""
    image = np.full((height, width, 3), 90, np.uint8)
    label = np.zeros((height, width), np.uint8)
    label[height // 2 :] = 1
    label[-height // 4 :, -width // 4 :] = 255
    return image, label, np.ones((height, width), np.uint8)


def test_ids_take_the_colours_of_the_table_and_all_others_are_black() -> None:
    painted = colorize(np.array([[0, 1, 2, 255]], np.uint8), CLASSES)
    assert painted.tolist() == [[list(RED), list(BLUE), list(BLACK), list(BLACK)]]


def test_a_cell_of_the_confusion_matrix_is_as_dark_as_its_share_of_the_label() -> None:
    pixels = np.asarray(confusion_picture(np.array([[0, 100], [75, 25]]), CLASSES.names), float)

    def middle(share: float) -> tuple[float, float]:
        """Mean row and column of the pixels of a cell that holds this share of its label."""
        color = np.array([round(255 + share * (full - 255)) for full in FULL])
        rows, columns = np.nonzero((pixels == color).all(axis=-1))
        assert CELL_PX**2 / 2 < len(rows) < CELL_PX**2
        return rows.mean(), columns.mean()

    full, most, rest = middle(1.0), middle(0.75), middle(0.25)
    assert full[0] < most[0] - CELL_PX / 2  # the first label is above the second
    assert abs(most[0] - rest[0]) < 3
    assert most[1] < rest[1] - CELL_PX / 2
    assert abs(full[1] - rest[1]) < 3


@pytest.mark.parametrize("width", [W, 3 * PANEL_PX])
def test_a_triptych_comes_apart_into_its_panels(tmp_path: Path, width: int) -> None:
    image, label, prediction = drawn_panels(H, width)
    path = tmp_path / "pictures" / "000-a.png"
    path.parent.mkdir()
    path.write_bytes(triptych_png("target/val/fr\u00fch", image, label, prediction, CLASSES))
    ((image_id, panels),) = read_pictures(tmp_path).items()
    assert image_id == "target/val/fr\u00fch"
    assert {panel.width for panel in panels} == {min(width, PANEL_PX)}
    first, second, third = (np.asarray(panel) for panel in panels)
    assert (first == 90).all()
    assert (second[0, 0] == RED).all()
    assert (second[-1, -1] == BLACK).all()
    assert (third == BLUE).all()
