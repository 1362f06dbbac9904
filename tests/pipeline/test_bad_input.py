"""Mistakes of a person: each is one line with what, where and what to do, and nothing is lost."""

import errno
import os
import re
import shutil
from pathlib import Path

import pytest

from stages.prepare.manifest import Manifest
from store.files import files_at
from store.lease import WHOLE, writer_lease
from tests.faults.disk import obeying_permissions
from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    cut_in_half,
    edit,
    flip_bits_of_the_target,
    identifier,
    params,
    remove,
)
from tests.pipeline.workplace import demand, shard, stored, the_store

SOURCE_ONLY: dict[str, dict[str, object]] = {
    "prepare": {"target": None},
    "embed": {"domains": ["source"]},
    "train": {"self_training": None, "regularizer.on": ["source"]},
}


def swap_and_lose_the_labels() -> None:
    source, target = {"train": "dusk", "val": "dusk_val"}, {"train": "day", "val": None}
    params(prepare={"source.splits": source, "target.splits": target})()
    remove("photos/dusk/labels")()


def rename_a_class() -> None:
    card = Path("runs/student/config.json")
    edit(card, '"sky"', '"heaven"')
    card.write_text(re.sub(r',\s+"sha256": "\w+"', "", card.read_text()))


CASES = [
    Case(
        "unknown key",
        "train",
        ("params.yaml", "train.iteratons is not a known key"),
        params(train={"iteratons": 10}),
    ),
    Case(
        "domain that training reads is not to be embedded",
        "embed",
        ("params.yaml: embed.domains ['source'] lacks target", "add it there"),
        params(embed={"domains": ["source"]}),
    ),
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
        "mirrored images alone",
        "embed -S embed.flips=[horizontal]",
        ("embed.flips", "['horizontal'] does not begin with none"),
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
    Case("unknown preset", "init --preset drwan", ("drwan", "drawn, camvid-day-to-dusk")),
    Case("init over an edited file", "init --preset drawn", ("params.yaml", "edited", "--force")),
    Case(
        "typo in the student's weights",
        "train -S train.student.weights=rndom",
        (
            "train.student.weights: rndom",
            "no such file or folder",
            "not a Hugging Face id",
            "correct",
        ),
    ),
    Case(
        "folder of a split instead of the root",
        "prepare -S prepare.target.root=photos/dusk -S prepare.target.splits.val=null",
        ("photos/dusk/dusk/images", "no such folder", "correct the path"),
    ),
    Case(
        "domains swapped, no labels there",
        "prepare",
        (
            "photos/dusk/images/00006.png",
            "no label",
            "5 more: 00007.png, 00008.png, 00009.png, ...",
        ),
        swap_and_lose_the_labels,
    ),
    Case(
        "empty target",
        "prepare",
        ("photos/dusk/images", "no images", "put them there"),
        remove(*(f"photos/dusk/images/{number:05d}.png" for number in range(6, 12))),
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
        "crop larger than prepare knew",
        "train -S prepare.pad_to_px=96 -S train.crop_px=96 --out elsewhere",
        ("crop of 96x96", "working image of 64x128", "ssr prepare"),
    ),
    Case(
        "no teacher weights",
        "embed -S embed.teacher.weights=sam.pth",
        ("sam.pth", "no such weight file", "embed.teacher.weights"),
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
        "student of other classes",
        "evaluate",
        ("runs/student", "is heaven", "sky", "choose a student"),
        rename_a_class,
    ),
    Case(
        "split without labels",
        "evaluate -S evaluate.split=train",
        ("target/train", "has a label", "evaluate.split"),
    ),
    Case(
        "averaged model of a run on the source",
        "evaluate --weights ema",
        ("runs: holds no averaged model", "train.self_training"),
        lambda: shutil.rmtree("runs/ema"),
    ),
    Case(
        "averaged model of a lone student",
        "evaluate --weights ema --model runs/student",
        ("runs/student", "holds one student", "--weights ema", "its run"),
    ),
    Case(
        "dataset whose folder is missing",
        "evaluate -S 'evaluate.datasets={night: {kind: camvid, root: photos, fit_px: null, "
        "splits: {train: dusk, val: b}}}'",
        ("photos/b/images", "no such folder"),
    ),
    Case(
        "import of a student's folder",
        "import runs/student --out theirs",
        ("runs/student does not exist as a file", "correct the path"),
    ),
    Case(
        "damaged metrics",
        "metrics",
        ("runs/metrics.json", "damaged", "ssr evaluate"),
        cut_in_half("runs/metrics.json"),
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


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/manifest.parquet")


def test_a_full_disk_is_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Manifest, "write", full_disk)
    remove("photos/dusk_val/images/00013.png")()
    before = stored(photos)
    assert_refused("prepare", "data/manifest.parquet: No space left on device", "disk space")
    assert stored(photos) == before


def test_a_read_only_results_folder_is_one_line(photos: Path) -> None:
    before = stored(photos)
    (photos / "runs").chmod(0o555)
    with obeying_permissions():
        assert_refused("train -S train.seed=1", "runs", "Permission denied", "check the path")
    assert stored(photos) == before


def test_a_second_writer_is_refused_and_the_first_keeps_its_store(photos: Path) -> None:
    shard("target", 0).unlink()
    before = stored(photos)
    with writer_lease(files_at(the_store("target")), WHOLE):
        assert_refused("embed", "data/features/target/", f"process {os.getpid()}", "wait for it")
    assert before.items() <= stored(photos).items()
    demand("embed")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("stage", ["embed", "train", "evaluate"])
def test_asking_for_a_gpu_that_there_is_not(stage: str, photos: Path) -> None:
    if stage == "embed":  # it needs the GPU only where there is something to embed
        shard("source", 0).unlink()
    before = stored(photos)
    assert_refused(f"{stage} -S {stage}.device=cuda", f"{stage}.device is cuda", "no GPU", "auto")
    assert before.items() <= stored(photos).items()
