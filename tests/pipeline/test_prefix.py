"""Stored prefixes of a frozen ViT, as a person types it."""

from pathlib import Path

from tests.pipeline.test_verify import flip_a_bit
from tests.pipeline.workplace import change_params, demand, ssr, stored
from tests.train.test_rein_vfm import save_vit


def test_prefixes_are_stored_repaired_and_trained_on(workplace: Path) -> None:
    change_params(
        workplace,
        {
            "embed.domains": [],
            "train.student.backbone": "rein_vfm",
            "train.student.weights": str(save_vit(workplace / "vit")),
            "train.student.norm_eps": None,
            "train.student.drop_path": 0.0,
            "train.student.rein": {
                **{"from_block": 2, "tokens": 5, "rank": 2, "native_px": 64, "views": 2}
            },
            "train.regularizer.on": [],
            "train.self_training": None,
            "train.feature_distance": None,
        },
    )
    demand("prepare")
    assert "holds no prefixes: run `ssr embed`" in ssr("train").err
    demand("embed", "--finalise")
    before = stored(workplace)
    assert "prefixes: 0 views now" in demand("embed")
    assert stored(workplace) == before
    (path,) = Path("data/features/prefix").glob("*.zarr")
    assert "dinov2" in demand("inspect", str(path))
    flip_a_bit(next((path / "prefix").glob("c.*")))
    assert ssr("verify", str(path)).code == 2
    demand("verify", str(path), "--repair")
    assert stored(workplace) == before
    demand("train")
    refused = ssr("train", "-S", "train.student.rein.from_block=3", "--out", "other")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "holds the prefixes of another from_block: run `ssr embed`" in refused.err
