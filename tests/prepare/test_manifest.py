import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stages.prepare.labels import CITYSCAPES_IDS, ClassTable, LabelTable
from stages.prepare.manifest import ImageRecord, Manifest
from store.errors import DataError

CLASSES = ClassTable(("lane", "rest"), ((128, 64, 128), (70, 70, 70)))
LABELLED = ImageRecord(
    image_id="source/train/images/1",
    domain="source",
    split="train",
    image="images/1.png",
    label="labels/1.png",
    raw_size_px=(1052, 1914),
    resized_size_px=(700, 1280),
    working_size_px=(704, 1280),
    sha256="ab" * 32,
    class_pixels=(5_000_000_000, 0),
    label_sha256="ab" * 32,
)
UNLABELLED = replace(
    LABELLED,
    image_id="target/train/1",
    domain="target",
    image="1.png",
    label=None,
    class_pixels=None,
    label_sha256=None,
)
VAL = replace(LABELLED, image_id="source/val/images/2", split="val")
MANIFEST = Manifest(
    classes=CLASSES,
    records=(LABELLED, VAL, UNLABELLED),
    labels={"source": LabelTable({0: 0, 4: 1}), "target": CITYSCAPES_IDS},
    sources={"source": {"kind": "camvid", "fit_px": [4, 2]}, "target": {"kind": "drawn"}},
)


def test_a_manifest_is_written_once_whatever_its_order_and_read_back(tmp_path: Path) -> None:
    path, other = tmp_path / "m.parquet", tmp_path / "other.parquet"
    reordered = replace(MANIFEST, records=MANIFEST.records[::-1])
    assert (MANIFEST.write(path), reordered.write(path), reordered.write(other)) == (1, 0, 1)
    assert other.read_bytes() == path.read_bytes()
    assert Manifest.read(path) == MANIFEST


def test_content_follows_what_features_depend_on_and_nothing_else() -> None:
    same = replace(UNLABELLED, split="val", image_id="other", image="moved.png")
    assert same.content == LABELLED.content
    for changed in (
        replace(LABELLED, sha256="cd" * 32),
        replace(LABELLED, resized_size_px=(701, 1280)),
        replace(LABELLED, working_size_px=(736, 1280)),
    ):
        assert changed.content != LABELLED.content


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pd.DataFrame({"image_id": ["x"]}).to_parquet(path)
    with pytest.raises(DataError, match="not a manifest of this version"):
        Manifest.read(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path, rng, refused = tmp_path / "m.parquet", random.Random(0), 0
    MANIFEST.write(path)
    written = path.read_bytes()
    for _ in range(300):
        data, bit = bytearray(written), rng.randrange(8 * len(written))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            assert Manifest.read(path) == MANIFEST, bit
        except DataError:
            refused += 1
    assert refused > 100


def test_a_manifest_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MANIFEST.write(tmp_path / "m.parquet")

    def fail(path: Path) -> bytes:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match=r"m\.parquet: cannot be read \(Input/output error\)"):
        Manifest.read(tmp_path / "m.parquet")


@pytest.mark.parametrize(
    "changed", [{"image": "/etc/passwd"}, {"label": "a/../../1.png"}, {"image": "1\0.png"}]
)
def test_a_manifest_names_images_inside_their_folder(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    replace(MANIFEST, records=(replace(LABELLED, **changed),)).write(tmp_path / "m.parquet")
    with pytest.raises(DataError, match="run `ssr prepare` again"):
        Manifest.read(tmp_path / "m.parquet")
