"""`ssr restyle`, as a person types it, and training on what it made."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from store.read import FeatureReader
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import change_params, demand, shard, ssr, stored, the_store

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
    assert_refused("restyle --png sheet.png")


def test_a_student_is_trained_and_chosen_on_restyled_images(workplace: Path) -> None:
    change_params(workplace, RESTYLE)
    demand("prepare")
    assert "restyling: 8 images, about " in demand("plan")
    assert_refused("train", "data/restyled.parquet: there is no manifest: run `ssr restyle` first")
    assert "4 made now\nwhen all parts are done: `ssr restyle`" in demand(
        "restyle", "--part", "1/2"
    )
    assert ", 4 made now" in demand("restyle", "--png", "sheet.png")
    with Image.open("sheet.png") as sheet:
        assert sheet.size == (3 * 518 + 6, 8 * 282 + 6)
    before = stored(workplace)
    assert ", 0 made now" in demand("restyle")
    assert stored(workplace) == before
    demand("embed")
    assert "2 images of source/val, restyled: the best is chosen without" in demand("train")
    assert_refused(
        "train -S restyle.seed=1 --out other",
        "was made with another restyle.seed: run `ssr restyle`",
    )
    demand("evaluate")
    demand("report")


def test_features_of_restyled_images_are_planned_embedded_read_and_repaired(
    workplace: Path,
) -> None:
    change_params(workplace, RESTYLE)
    changes = {
        "restyle.mixer.strength": 0.0,  # so that features have to be those of the source
        "restyle.splits": ["train"],
        "train.restyled.features": "restyled",
        "train.validate_on": "target",
        "train.regularizer.on": ["source"],
        "embed.domains": ["restyled", "source"],
    }
    change_params(workplace, changes)
    demand("prepare")
    planned = {row.split()[0]: row.split()[2:] for row in demand("plan").splitlines() if row}
    assert planned["restyled"] == planned["source"]
    assert_refused("embed", "data/restyled.parquet: there is no manifest: run `ssr restyle` first")
    demand("restyle")
    image = sorted((workplace / "data" / "restyled").rglob("*.png"))[2]
    sound = image.read_bytes()
    for spoilt in (sound[:-1], None):
        image.unlink() if spoilt is None else image.write_bytes(spoilt)
        assert_refused("embed", f"{image.name}: is missing or not what was made: run `ssr restyle`")
    demand("restyle")
    assert "restyled: 6 images in " in demand("embed")
    restyled, source = (FeatureReader(the_store(domain)) for domain in ("restyled", "source"))
    names = [slot.image.image_id for slot in source.header.slots]
    assert [slot.image.image_id for slot in restyled.header.slots] == [f"{n}.0" for n in names]
    for name in names:
        one, other = (
            r.window(i, "stride8", 0, 0, 8, 16)
            for r, i in ((restyled, f"{name}.0"), (source, name))
        )
        np.testing.assert_array_equal(one, other)
    assert "restyled store: every training image is in" in ssr("doctor").out
    store, before = str(the_store("restyled")), stored(workplace)
    demand("inspect", store, "--png", "features.png")
    assert_refused(f"verify {store} --online 1")
    shard("restyled", 0).unlink()
    assert ssr("verify", store).code == 2
    demand("verify", store, "--repair")
    assert stored(workplace) == before
    demand("train")
    demand("report")
    assert_refused(
        "embed -S restyle.seed=1", "was made with another restyle.seed: run `ssr restyle`"
    )


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
        (
            ["train.restyled.features=restyled", "train.regularizer.on=[source]"],
            "embed.domains [] lacks restyled, which training reads; add it there",
        ),
        (
            ["restyle=null", "train.restyled=null", "embed.domains=[restyled]"],
            "embed.domains restyled needs section restyle, which is null",
        ),
        (["restyle.splits=[train]"], "lacks val, which train.validate_on proxy reads"),
        (["restyle.splits=[val,val]"], "names one twice"),
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
    assert_refused(" -S ".join(["restyle", *values]), says)
