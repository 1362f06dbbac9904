"""`ssr label`, as a person types it, and training from what it wrote."""

import json
from pathlib import Path

import pytest

from tests.pipeline.mistakes import assert_refused
from tests.pipeline.test_verify import flip_a_bit
from tests.pipeline.workplace import change_params, demand, stored

ARM = {
    "train.self_training.labels": "store",
    "train.self_training.weight": "pixel",
    "train.regularizer.on": [],
}


def test_without_a_training_that_asks_nothing_is_labelled(workplace: Path) -> None:
    assert "asks for no labels" in demand("label")
    assert json.loads(Path("data/labels.json").read_text()) == {"format": 1, "stores": {}}
    assert not (workplace / "data/features").exists()


def test_an_arm_is_embedded_labelled_trained_and_measured(workplace: Path) -> None:
    change_params(workplace, ARM)
    for command in ("prepare", "embed"):
        demand(command)
    assert_refused(
        "train", "data/labels.json: there are no labels from the store yet; run `ssr label`"
    )
    assert "6 labelled now" in demand("label")
    before = stored(workplace)
    assert "0 labelled now" in demand("label")
    assert stored(workplace) == before
    path = json.loads(Path("data/labels.json").read_text())["stores"]["target"]["path"]
    said = demand("inspect", f"data/features/{path}", "--png", "labels.png")
    assert "a linear classifier of stride8, learnt from 5 images of source/train" in said
    assert "sky " in said
    assert "classes" in said
    assert Path("labels.png").stat().st_size > 1000
    assert "every file is what was written" in demand("verify", f"data/features/{path}")
    before = stored(workplace)
    flip_a_bit(next(Path("data/features", path, "classes").glob("c.*")))
    demand("verify", f"data/features/{path}", "--repair")
    assert stored(workplace) == before
    assert "UNTRAINED TEACHER" in demand("train")
    for command in ("evaluate", "report"):
        demand(command)
    assert not Path("runs/ema").exists()
    assert_refused(
        "train -S label.images=3 --out other",
        "were made with another label.images; run `ssr label`",
    )
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("label.level=stride16", "embed.levels ['stride8'] lacks stride16, which training reads"),
        ("embed.domains=[source]", "embed.domains ['source'] lacks target, which training reads"),
        ("embed.splits=[val]", "embed.splits ['val'] lacks train, which training reads"),
    ],
)
def test_what_labels_lack_is_said_before_anything_is_embedded(
    value: str, says: str, workplace: Path
) -> None:
    change_params(workplace, ARM)
    assert_refused(f"label -S {value}", says)
