"""Pictures are read back pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest

from stages.evaluate.pictures import PANEL_PX, read_pictures, triptych_png
from stages.prepare.labels import ClassTable

CLASSES = ClassTable(names=("road", "sky"), palette=((255, 0, 0), (0, 0, 255)))
RED, BLUE, BLACK = (255, 0, 0), (0, 0, 255), (0, 0, 0)


@pytest.mark.parametrize("width", [120, 3 * PANEL_PX])
def test_a_triptych_comes_apart_into_its_panels(tmp_path: Path, width: int) -> None:
    image = np.full((60, width, 3), 90, np.uint8)
    label = np.zeros((60, width), np.uint8)
    label[30:] = 1
    label[-15:, -width // 4 :] = 255
    path = tmp_path / "pictures" / "000-a.png"
    path.parent.mkdir()
    drawn = triptych_png("target/val/fr\u00fch", image, label, np.ones_like(label), CLASSES)
    path.write_bytes(drawn)
    ((image_id, panels),) = read_pictures(tmp_path).items()
    assert image_id == "target/val/fr\u00fch"
    assert {panel.width for panel in panels} == {min(width, PANEL_PX)}
    first, second, third = (np.asarray(panel) for panel in panels)
    assert (first == 90).all()
    assert (second[0, 0] == RED).all()
    assert (second[-1, -1] == BLACK).all()
    assert (third == BLUE).all()
