"""A new user's own folders, from `ssr init` on, with nothing edited."""

from pathlib import Path
from typing import Final

import pytest
from ruamel.yaml import YAML

from pipeline.params import load_params
from stages.prepare.datasets import folder
from stages.prepare.datasets.drawn import DRAWN
from stages.prepare.labels import CITYSCAPES_19
from stages.prepare.manifest import Manifest
from tests.pipeline.messy import PALETTE, drawn_scene, write_messy
from tests.pipeline.workplace import demand

INIT: Final = ("init", "--preset", "folders-small", "--source", "mine", "--target", "theirs")


@pytest.fixture(autouse=True)
def messy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_messy(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source() -> folder.Config:
    config = load_params(Path("params.yaml")).prepare.source
    assert isinstance(config, folder.Config)
    return config


def test_a_messy_folder_needs_no_edit_before_it_is_prepared() -> None:
    said = demand(*INIT)
    assert "source: 6 images in photos, 6 with a label in labels, to train on" in said
    assert "looked at 6 of 6 label files" in said
    assert "the colours are those of Cityscapes" in said
    assert "the last 10% of the source's are held out (val_share)" in said
    rare = load_params(Path("params.yaml")).train.rare_class_sampling
    assert rare is not None
    assert (rare.min_pixels, rare.min_crop_ratio) == (23, 1.1)  # of 160x96
    said = demand("prepare")
    assert "rare_class_sampling" not in said
    for domain in ("source", "target"):
        assert (
            f"{domain}: photos: passed over 4 entries that are not images: ._0000.jpg, "
            "notes [draft].txt, @eaDir/, ..."
        ) in said
    manifest = Manifest.read(Path("data/manifest.parquet"))
    records = manifest.select(domain="source")
    for record in records:  # whatever the order of a palette
        colors = PALETTE[drawn_scene(int(Path(record.image).stem), "day")[1]]
        shown = ((colors == color).all(-1).sum() for color in manifest.classes.palette)
        assert record.class_pixels == tuple(shown)
    assert [record.split for record in records].count("val") == 1


def test_classes_of_a_known_palette_have_their_names() -> None:
    demand(*INIT)
    of = dict(zip(CITYSCAPES_19.palette, CITYSCAPES_19.names, strict=True))
    entries = source().classes
    assert {entry.color for entry in entries} <= set(DRAWN.palette)
    assert all(entry.name == of[entry.color] and entry.ids == () for entry in entries)
    assert source().label_suffix == "_L"
    assert load_params(Path("params.yaml")).evaluate.domain == "source"


def test_a_class_table_is_printed_as_it_is_pasted() -> None:
    demand(*INIT)
    printed = YAML(typ="safe").load(demand("classes", "mine"))
    entries = [{"name": e.name, "color": list(e.color)} for e in source().classes]
    assert printed == {"classes": entries, "ignore_ids": [255], "ignore_colors": [[0, 0, 0]]}
    assert "% of the pixels" in demand("classes", "mine/labels")
