"""Mistakes of a person: each is one line with what, where and what to do, and nothing is lost."""

import shutil
from pathlib import Path

import pytest

from tests.faults.disk import obeying_permissions
from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    cut_in_half,
    flip_bits_of_the_target,
    identifier,
    params,
)
from tests.pipeline.workplace import shard, stored

SOURCE_ONLY: dict[str, dict[str, object]] = {
    "prepare": {"target": None},
    "embed": {"domains": ["source"]},
    "train": {"self_training": None, "regularizer.on": ["source"]},
}


CASES = [
    Case(
        "more labelled target images than there are",
        "prepare -S prepare.target.labelled=9",
        ("prepare.target.labelled is 9, but ", "images to train on have a label in"),
    ),
    Case(
        "manifest of other labelled images",
        "train -S prepare.target.labelled=1",
        ("was made with another prepare.target.labelled; run `ssr prepare`",),
    ),
    Case(
        "more components than channels",
        "embed -S store.channels=1000",
        ("store.channels 1000 is more than the 64 channels of stride8", "lower it"),
    ),
    Case(
        "whitening without components",
        "embed -S store.whiten=true",
        ("whiten needs `channels`, which is null",),
    ),
    Case(
        "stores of other components than the params name",
        "train -S store.channels=8",
        ("the source store was made with another projection", "run `ssr embed`"),
    ),
    Case(
        "unknown preset",
        "init --preset drwan",
        ("there is no preset drwan", "`ssr init --help` lists them"),
    ),
    Case(
        "image changed after embed, then train",
        "train -S train.seed=1 --out elsewhere",
        ("photos/d", "has changed", "ssr prepare"),
        lambda: [
            shutil.copy(path.with_name("00007.png"), path)
            for path in sorted(Path("photos/dusk/images").iterdir())
            if path.name != "00007.png"
        ],
    ),
    Case(
        "target given up after prepare, then train",
        "train",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(**SOURCE_ONLY),
    ),
    Case(
        "datasets changed after prepare, then embed",
        "embed -S prepare.target.fit_px=[64,32]",
        ("data/manifest.parquet", "another prepare.target.fit_px", "ssr prepare"),
    ),
    Case(
        "store folder is a file",
        "embed -S store.url=params.yaml",
        ("params.yaml", "Not a directory", "correct the path"),
    ),
    Case(
        "shard deleted",
        "train",
        ("shard 1 of stride8", "target/train/", "data/features/target/", "ssr embed"),
        lambda: shard("target", 1).unlink(),
    ),
    Case(
        "bits of a shard flipped",
        "train -S train.seed=1 --out elsewhere",
        ("data/features/target/", "damaged", "ssr verify", "--repair"),
        flip_bits_of_the_target,
    ),
    Case(
        "level that is not stored",
        "train -S train.regularizer.levels=[stride16,stride8,stride8,stride8] "
        "-S embed.levels=[stride8,stride16]",
        ("data/features/source/", "no stride16", "embed.levels", "ssr embed"),
    ),
    Case(
        "no student to start from",
        "train -S train.init=nowhere",
        ("train.init: nowhere/config.json", "missing", "another student's folder"),
    ),
    Case(
        "damaged checkpoint",
        "train",
        ("runs/checkpoint.pt", "damaged", "delete it"),
        cut_in_half("runs/checkpoint.pt"),
    ),
    Case(
        "results folder is a file",
        "train --out params.yaml",
        ("params.yaml", "File exists", "check the path"),
    ),
    Case(
        "averaged model of a run on the source",
        "evaluate --weights ema",
        ("runs: holds no averaged model", "train.self_training"),
        lambda: shutil.rmtree("runs/ema"),
    ),
    Case(
        "inspect of a file",
        "inspect params.yaml",
        ("cannot read params.yaml/zarr.json", "correct the path"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_mistake_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)


def test_a_read_only_results_folder_is_one_line(photos: Path) -> None:
    before = stored(photos)
    (photos / "runs").chmod(0o555)
    with obeying_permissions():
        assert_refused("train -S train.seed=1", "runs", "Permission denied", "check the path")
    assert stored(photos) == before


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("stage", ["embed", "train", "evaluate"])
def test_asking_for_a_gpu_that_there_is_not(stage: str, photos: Path) -> None:
    if stage == "embed":  # it needs the GPU only where there is something to embed
        shard("source", 0).unlink()
    before = stored(photos)
    assert_refused(f"{stage} -S {stage}.device=cuda", f"{stage}.device is cuda", "no GPU", "auto")
    assert before.items() <= stored(photos).items()
