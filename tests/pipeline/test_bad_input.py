"""Mistakes of a person: each is one line with what, where and what to do, and nothing is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.disk import obeying_permissions
from tests.pipeline.mistakes import Mistake, assert_refused, leave_it
from tests.pipeline.workplace import change_params, shard

SOURCE_ONLY: dict[str, object] = {
    "prepare.target": None,
    "embed.domains": ["source"],
    "train.self_training": None,
    "train.regularizer.on": ["source"],
}


def exchange_the_target() -> None:
    for path in sorted(Path("photos/dusk/images").iterdir()):
        if path.name != "00007.png":
            shutil.copy(path.with_name("00007.png"), path)


def damage_the_target() -> None:
    for number in (0, 1):
        path = shard("target", number)
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def cut_the_checkpoint() -> None:
    path = Path("runs/checkpoint.pt")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MISTAKES: dict[str, Mistake] = {
    "more labelled target images than there are": (
        "prepare -S prepare.target.labelled=9",
        ("prepare.target.labelled is 9, but ", "images to train on have a label in"),
        leave_it,
    ),
    "manifest of other labelled images": (
        "train -S prepare.target.labelled=1",
        ("was made with another prepare.target.labelled; run `ssr prepare`",),
        leave_it,
    ),
    "datasets changed after prepare": (
        "embed -S prepare.target.fit_px=[64,32]",
        ("data/manifest.parquet", "another prepare.target.fit_px", "ssr prepare"),
        leave_it,
    ),
    "target given up after prepare": (
        "train",
        ("data/manifest.parquet", "target", "ssr prepare"),
        lambda: change_params(Path(), SOURCE_ONLY),
    ),
    "more components than channels": (
        "embed -S store.channels=1000",
        ("store.channels 1000 is more than the 64 channels of stride8", "lower it"),
        leave_it,
    ),
    "whitening without components": (
        "embed -S store.whiten=true",
        ("whiten needs `channels`, which is null",),
        leave_it,
    ),
    "stores of other components": (
        "train -S store.channels=8",
        ("the source store was made with another projection", "run `ssr embed`"),
        leave_it,
    ),
    "store folder is a file": (
        "embed -S store.url=params.yaml",
        ("params.yaml", "Not a directory", "correct the path"),
        leave_it,
    ),
    "image changed after embed": (
        "train -S train.seed=1 --out elsewhere",
        ("photos/d", "has changed", "ssr prepare"),
        exchange_the_target,
    ),
    "shard deleted": (
        "train",
        ("shard 1 of stride8", "target/train/", "data/features/target/", "ssr embed"),
        lambda: shard("target", 1).unlink(),
    ),
    "bits of a shard flipped": (
        "train -S train.seed=1 --out elsewhere",
        ("data/features/target/", "damaged", "ssr verify", "--repair"),
        damage_the_target,
    ),
    "level that is not stored": (
        "train -S train.regularizer.levels=[stride16,stride8,stride8,stride8] "
        "-S embed.levels=[stride8,stride16]",
        ("data/features/source/", "no stride16", "embed.levels", "ssr embed"),
        leave_it,
    ),
    "no student to start from": (
        "train -S train.init=nowhere",
        ("train.init: nowhere/config.json", "missing", "another student's folder"),
        leave_it,
    ),
    "damaged checkpoint": (
        "train",
        ("runs/checkpoint.pt", "damaged", "delete it"),
        cut_the_checkpoint,
    ),
    "results folder is a file": (
        "train --out params.yaml",
        ("params.yaml", "File exists", "check the path"),
        leave_it,
    ),
    "no averaged model": (
        "evaluate --weights ema",
        ("runs: holds no averaged model", "train.self_training"),
        lambda: shutil.rmtree("runs/ema"),
    ),
    "inspect of a file": (
        "inspect params.yaml",
        ("cannot read params.yaml/zarr.json", "correct the path"),
        leave_it,
    ),
}


@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize(("command", "says", "spoil"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(
    command: str, says: tuple[str, ...], spoil: Callable[[], object]
) -> None:
    spoil()
    assert_refused(command, *says)


def test_a_read_only_results_folder_is_one_line(photos: Path) -> None:
    (photos / "runs").chmod(0o555)
    with obeying_permissions():
        assert_refused("train -S train.seed=1", "runs", "Permission denied", "check the path")


@pytest.mark.usefixtures("no_gpu", "photos")
@pytest.mark.parametrize("stage", ["embed", "train", "evaluate"])
def test_asking_for_a_gpu_that_there_is_not(stage: str) -> None:
    if stage == "embed":  # it needs the GPU only where there is something to embed
        shard("source", 0).unlink()
    assert_refused(f"{stage} -S {stage}.device=cuda", f"{stage}.device is cuda", "no GPU", "auto")
