import json
from pathlib import Path

import numpy as np
import pytest

from stages.prepare.labels import (
    CAMVID_11,
    CITYSCAPES_19,
    CITYSCAPES_IDS,
    DRAWN,
    IGNORE,
    ClassTable,
    LabelTable,
    StoredLabel,
    class_pixels,
    train_id_table,
)
from store.errors import DataError

# Cityscapes' colours in train id order, as published (spec §1.2).
SPEC_PALETTE = (
    "128,64,128 244,35,232 70,70,70 102,102,156 190,153,153 153,153,153 250,170,30 220,220,0 "
    "107,142,35 152,251,152 70,130,180 220,20,60 255,0,0 0,0,142 0,0,70 0,60,100 0,80,100 0,0,230 "
    "119,11,32"
)


@pytest.mark.parametrize("dataset", ["gta", "cityscapes"])
def test_the_id_table_is_the_official_one(shared: Path, dataset: str) -> None:
    tables = json.loads((shared / "spec" / "tables" / "id_tables.json").read_text())
    official = {int(stored): k for stored, k in tables[dataset]["mapped"].items()}
    assert {s: k for s, k in CITYSCAPES_IDS.ids.items() if k != IGNORE} == official
    assert dict(enumerate(CITYSCAPES_19.names)) == {
        int(k): name for k, name in tables["train_ids"].items()
    }


def test_known_ids_convert_as_the_official_lookup_does(shared: Path) -> None:
    tables = json.loads((shared / "spec" / "tables" / "id_tables.json").read_text())
    lookup = np.array(tables["gta"]["label_id_to_train_id_lut"], np.uint8)
    known = np.array([*range(35), 255], np.uint8)[None]
    assert np.array_equal(CITYSCAPES_IDS.to_train_ids(StoredLabel(known)), lookup[known])


def test_train_ids_map_to_themselves(shared: Path) -> None:
    tables = json.loads((shared / "spec" / "tables" / "id_tables.json").read_text())
    official = {int(stored): k for stored, k in tables["acdc"]["mapped"].items()}
    assert train_id_table(CITYSCAPES_19).ids == official


def test_colours_are_the_published_ones() -> None:
    spec = [tuple(int(v) for v in color.split(",")) for color in SPEC_PALETTE.split()]
    assert list(CITYSCAPES_19.palette) == spec
    painted = np.array([spec], np.uint8)
    assert CITYSCAPES_IDS.to_train_ids(StoredLabel(painted)).tolist() == [list(range(19))]
    assert CITYSCAPES_IDS.to_train_ids(StoredLabel(np.zeros((1, 1, 3), np.uint8))).tolist() == [
        [IGNORE]
    ]


@pytest.mark.parametrize("table", [CITYSCAPES_19, CAMVID_11, DRAWN])
def test_names_and_colours_of_a_class_table_are_distinct(table: ClassTable) -> None:
    assert len(table) == len(set(table.names)) == len(set(table.palette)) == len(table.palette)


def test_unknown_ids_and_colours_are_listed() -> None:
    table = LabelTable({0: 0, 3: 1}, {(1, 2, 3): 0})
    with pytest.raises(DataError, match=r"label ids 1, 200 are not in the class table"):
        table.to_train_ids(StoredLabel(np.array([[0, 3], [200, 1]], np.uint8)))
    with pytest.raises(DataError, match=r"label colours \(1, 2, 4\) are not in the class table"):
        table.to_train_ids(StoredLabel(np.array([[[1, 2, 3], [1, 2, 4]]], np.uint8)))
    with pytest.raises(DataError, match="and 242 more"):
        LabelTable(dict.fromkeys(range(6), 0)).to_train_ids(
            StoredLabel(np.arange(256, dtype=np.uint8)[None])
        )


def test_ids_without_a_table_are_refused() -> None:
    table = LabelTable({255: IGNORE}, {(1, 2, 3): 0})
    with pytest.raises(DataError, match="holds class ids, but the classes have no ids"):
        table.to_train_ids(StoredLabel(np.full((2, 2), 255, np.uint8)))


def test_colours_without_a_table_are_refused() -> None:
    with pytest.raises(DataError, match="stores class ids"):
        LabelTable({0: 0}).to_train_ids(StoredLabel(np.zeros((2, 2, 3), np.uint8)))


def test_ignored_pixels_are_not_counted() -> None:
    assert class_pixels(np.array([[0, 2, 2], [IGNORE, 2, 0]], np.uint8), 4) == (2, 0, 3, 0)


def test_a_table_survives_json() -> None:
    stored = json.loads(json.dumps(CITYSCAPES_IDS.to_json()))
    assert LabelTable.from_json(stored) == CITYSCAPES_IDS
