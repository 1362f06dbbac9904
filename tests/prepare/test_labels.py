import json
import re
from pathlib import Path

import numpy as np
import pytest

from stages.prepare.labels import (
    CITYSCAPES_19,
    CITYSCAPES_IDS,
    IGNORE,
    Color,
    LabelTable,
    StoredLabel,
    to_train_ids,
)
from store.errors import DataError


def test_unknown_ids_and_colours_are_listed() -> None:
    table = LabelTable({0: 0, 3: 1}, {(1, 2, 3): 0})
    with pytest.raises(DataError, match=r"label ids 1, 200 are not in the class table"):
        to_train_ids(StoredLabel(np.array([[0, 3], [200, 1]], np.uint8)), table)
    with pytest.raises(DataError, match=r"label colours \(1, 2, 4\) are not in the class table"):
        to_train_ids(StoredLabel(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)), table)
    with pytest.raises(DataError, match="and 242 more"):
        to_train_ids(
            StoredLabel(np.arange(256, dtype=np.uint8)[None]),
            LabelTable(dict.fromkeys(range(6), 0)),
        )


ROAD, CAR, SKY, BLACK, PINK = (128, 64, 128), (0, 0, 142), (70, 130, 180), (0, 0, 0), (255, 0, 99)
IDS = {1: 0, 2: 1, 3: 2, 9: IGNORE}
COLORS = {ROAD: 0, CAR: 1, SKY: 2, BLACK: IGNORE}


def grey(value: int) -> Color:
    return value, value, value


@pytest.mark.parametrize(
    ("ids", "palette", "expected"),
    [
        pytest.param(IDS, {1: ROAD, 2: CAR, 9: PINK}, [0, 1, 255], id="that of the classes"),
        pytest.param(IDS, {1: ROAD, 9: CAR}, [0, 255], id="a colour shared with an ignored id"),
        pytest.param(
            IDS, {1: BLACK, 2: (128, 0, 0), 9: PINK, 3: ROAD}, [0, 1, 255, 2], id="of another set"
        ),
        pytest.param(IDS, {1: PINK, 2: BLACK}, [0, 1], id="nothing to do with the classes"),
        pytest.param(IDS, {1: grey(1), 3: grey(3)}, [0, 2], id="greys of the ids"),
        pytest.param(IDS, {1: grey(40), 2: grey(80)}, [0, 1], id="greys to look at"),
        pytest.param(IDS, {0: SKY, 4: ROAD, 5: BLACK}, [2, 0, 255], id="ids that mean nothing"),
        pytest.param({}, {1: CAR, 2: ROAD}, [1, 0], id="classes without ids"),
        pytest.param(IDS, {0: grey(3), 4: grey(9)}, [2, 255], id="greys that are the ids"),
    ],
)
def test_a_palette_is_read_by_ids_or_by_colours(
    ids: dict[int, int], palette: dict[int, Color], expected: list[int]
) -> None:
    assert to_train_ids(paletted(palette), LabelTable(ids, COLORS)).tolist() == [expected]


def test_the_palette_of_gta5_changes_nothing() -> None:
    """Licence plates (34) and pole groups (18) are ignored, and painted as cars and as poles."""
    painted = {34: CAR, 18: (153, 153, 153)} | {
        stored: CITYSCAPES_19.palette[train_id] if train_id != IGNORE else BLACK
        for stored, train_id in CITYSCAPES_IDS.ids.items()
        if stored not in (18, 34)
    }
    label = paletted(painted)
    by_id = to_train_ids(StoredLabel(label.values), CITYSCAPES_IDS)
    assert np.array_equal(to_train_ids(label, CITYSCAPES_IDS), by_id)
    sorted_anew = dict(zip(sorted(painted), painted.values(), strict=True))
    with pytest.raises(DataError, match="the palette is at odds with the ids"):
        to_train_ids(paletted(sorted_anew), CITYSCAPES_IDS)


@pytest.mark.parametrize("count", [3, 5, 7, 8, 12])
def test_a_reordered_palette_of_gta5_is_refused_however_few_classes_it_shows(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20):  # whose first ids mean "no class" to Cityscapes
        classes = rng.choice(len(CITYSCAPES_19), count, replace=False)
        reordered = {index: CITYSCAPES_19.palette[c] for index, c in enumerate(classes)}
        with pytest.raises(DataError, match="the palette is at odds with the ids"):
            to_train_ids(paletted(reordered), CITYSCAPES_IDS)


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ({1: SKY, 2: ROAD}, "1 is class 0 by its id and class 2 by its colour (so are 2 of 2 ids)"),
        ({1: SKY, 2: ROAD, 9: PINK}, "(so are 2 of 3 ids)"),
        ({1: SKY, 9: PINK}, "(so are 1 of 2 ids)"),
        ({1: ROAD, 2: CAR, 3: BLACK}, "3 is class 2 by its id and no class by its colour"),
        ({1: grey(3), 3: grey(9)}, "(so are 1 of 2 ids)"),
        ({0: SKY, 4: PINK}, "label ids 0, 4 are not in the class table"),
    ],
)
def test_a_palette_at_odds_with_the_ids_is_refused(palette: dict[int, Color], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        to_train_ids(paletted(palette), LabelTable(IDS, COLORS))


def paletted(colors: dict[int, Color]) -> StoredLabel:
    palette = np.zeros((256, 3), np.uint8)
    palette[[*colors]] = [*colors.values()]
    return StoredLabel(np.array([[*colors]], np.uint8), palette)


@pytest.mark.parametrize("dataset", ["gta", "cityscapes"])
def test_the_id_table_is_the_official_one(shared: Path, dataset: str) -> None:
    tables = json.loads((shared / "spec" / "tables" / "id_tables.json").read_text())
    official = {int(stored): k for stored, k in tables[dataset]["mapped"].items()}
    assert {s: k for s, k in CITYSCAPES_IDS.ids.items() if k != IGNORE} == official
    assert dict(enumerate(CITYSCAPES_19.names)) == {
        int(k): name for k, name in tables["train_ids"].items()
    }
