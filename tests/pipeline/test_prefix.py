"""Stored prefixes of a frozen ViT, as a person types it."""

import re
from pathlib import Path

import pytest

from pipeline import MANIFEST
from pipeline.params import load_params
from pipeline.plan import plan_prefixes
from stages.prepare.manifest import Manifest
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.test_verify import flip_a_bit
from tests.pipeline.workplace import change_params, demand, ssr, stored
from tests.train.test_rein_vfm import save_vit


@pytest.fixture
def asked(workplace: Path) -> Path:
    """A folder whose params ask for prefixes, with its manifest."""
    change_params(
        workplace,
        {
            "embed.domains": [],
            "train.student.backbone": "rein_vfm",
            "train.student.weights": str(save_vit(workplace / "vit")),
            "train.student.norm_eps": None,
            "train.student.drop_path": 0.0,
            "train.student.rein": {
                **{"from_block": 2, "tokens": 5, "rank": 2, "native_px": 64, "views": 4}
            },
            "train.regularizer.on": [],
            "train.self_training": None,
            "train.feature_distance": None,
        },
    )
    demand("prepare")
    return workplace


def test_prefixes_are_stored_repaired_and_trained_on(asked: Path) -> None:
    assert "nothing is embedded yet: run `ssr embed`" in demand("doctor")
    assert "there are no prefixes of these params: run `ssr embed`" in ssr("train").err
    demand("embed")
    before = stored(asked)
    assert "prefixes: 0 views now" in demand("embed")
    assert stored(asked) == before
    (path,) = Path("data/features/prefix").glob("*.zarr")
    assert f"prefixes: views of every training image are in {path}" in demand("doctor")
    assert "dinov2" in demand("inspect", str(path))
    flip_a_bit(next((path / "prefix").glob("c.*")))
    assert ssr("verify", str(path)).code == 2
    demand("verify", str(path), "--repair")
    assert stored(asked) == before
    demand("train")
    assert_refused(
        "train -S train.student.rein.from_block=3 --out other",
        "there are no prefixes of these params: run `ssr embed`",
    )
    next((path / "prefix").glob("c.*")).unlink()
    assert f"is missing or out of date in {path}: run `ssr embed`" in ssr("doctor").out


def test_parts_store_what_one_command_does_and_the_plan_counts_it(asked: Path) -> None:
    def embed(*step: str) -> int:
        return int(re.findall(r"prefixes: (\d+) views now", demand("embed", *step))[0])

    assert "run `ssr embed --init` first" in ssr("embed", "--part", "1/2").err
    assert embed("--init") == 0
    second = embed("--part", "2/2")
    assert "missing" in ssr("embed", "--finalise").err
    first = embed("--part", "1/2")
    assert (first, embed("--finalise"), embed()) == (16, 0, 0)
    assert second > 0
    shards = {path.name: path.read_bytes() for path in asked.glob("data/features/prefix/*/*/c.*")}
    demand("embed", "-S", "store.url=whole")
    assert {path.name: path.read_bytes() for path in asked.glob("whole/prefix/*/*/c.*")} == shards

    manifest = Manifest.read(MANIFEST)
    views, size_bytes = plan_prefixes(load_params(Path("params.yaml")), manifest)
    assert views == 4 * 6 >= first + second
    written = sum(map(len, shards.values()))
    assert size_bytes * (first + second) / views == pytest.approx(written, rel=0.03)
    larger = load_params(Path("params.yaml"), ("prepare.pad_to_px=288", "train.crop_px=288"))
    # two maps of 18 x 18 patches and a class token lie in 38 rows of 18: 3 x 2 chunks of 16 x 16
    assert plan_prefixes(larger, manifest) == (24, 24 * 3 * 2 * 16 * 16 * 16 * 4)
    said = demand("plan")
    assert "prefixes: 24 views at most" in said
    assert "disk: 0 bytes" not in said
