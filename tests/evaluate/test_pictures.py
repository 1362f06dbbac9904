"""Pictures are read back pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.evaluate.pictures import (
    PANEL_PX,
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
