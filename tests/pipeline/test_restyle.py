"""`ssr restyle`, as a person types it, and training on what it made."""

from pathlib import Path

import pytest
from PIL import Image

from tests.pipeline.workplace import change_params, demand, ssr, stored

RESTYLE = {
    "restyle": {
        "mixer": {"kind": "fourier", "strength": 1.0, "band": 0.05},
        "styles": "target",
        "draws": 1,
        "splits": ["train", "val"],
        "seed": 0,
    },
    "train.restyled": {"probability": 0.5, "features": "clean"},
    "train.validate_on": "proxy",
    "train.regularizer.on": [],
    "embed.domains": [],
}


def test_without_a_section_nothing_is_restyled(workplace: Path) -> None:
    assert "nothing is restyled" in demand("restyle")
    assert {path.suffix for path in Path("data").iterdir()} == {".parquet", ".jsonl"}
    refused = ssr("restyle", "--png", "sheet.png")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


def test_a_student_is_trained_and_chosen_on_restyled_images(workplace: Path) -> None:
    change_params(workplace, RESTYLE)
    demand("prepare")
    assert "restyling: 8 images, about " in demand("plan")
    refused = ssr("train")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "data/restyled.parquet: there is no manifest: run `ssr restyle` first" in refused.err
    assert "4 made now\nwhen all parts are done: `ssr restyle`" in demand(
        "restyle", "--part", "1/2"
    )
    assert ", 4 made now" in demand("restyle", "--png", "sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (3 * 364, 8 * 184)
    before = stored(workplace)
    assert ", 0 made now" in demand("restyle")
    assert stored(workplace) == before
    demand("embed")
    assert "2 images of source/val, restyled: the best is chosen without" in demand("train")
    refused = ssr("train", "-S", "restyle.seed=1", "--out", "other")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "was made with another restyle.seed: run `ssr restyle`" in refused.err
    demand("evaluate")
    demand("report")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["restyle=null"], "train.restyled needs section restyle, which is null"),
        (
            ["restyle=null", "train.restyled=null"],
            "train.validate_on proxy needs section restyle, which is null",
        ),
        (
            ["restyle.splits=[val]"],
            "restyle.splits ['val'] lacks train, which train.restyled reads",
        ),
        (["restyle.splits=[train]"], "lacks val, which train.validate_on proxy reads"),
        (["restyle.splits=[val,val]"], "names one twice"),
        (["restyle.mixer.kind=gan"], "restyle.mixer.kind is 'gan'; it is one of "),
        (["restyle.mixer.band=0"], "restyle.mixer.band is 0"),
        (
            ["prepare.target=null", "train.self_training=null"],
            "restyle.styles is target, but prepare.target is null: set it to source",
        ),
    ],
)
def test_keys_that_are_at_odds_are_said_before_any_work(
    values: list[str], says: str, workplace: Path
) -> None:
    change_params(workplace, RESTYLE)
    refused = ssr("restyle", *(word for value in values for word in ("-S", value)))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert says in refused.err
