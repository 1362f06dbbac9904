"""Mistakes of a person: each is one line with what, where and what to do, and nothing is lost."""

import errno
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.prepare.datasets.camvid import CAMVID_11
from stages.prepare.manifest import Manifest
from store.files import files_at
from store.lease import WHOLE, writer_lease
from tests.faults.disk import obeying_permissions
from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    copy,
    cut_in_half,
    edit,
    embed_the_source_alone,
    flip_bits,
    flip_bits_of_the_target,
    identifier,
    params,
    remove,
    save_backbone,
    save_label,
    save_teacher,
)
from tests.pipeline.workplace import demand, shard, stored, the_store

SOURCE_ONLY: dict[str, dict[str, object]] = {
    "prepare": {"target": None},
    "embed": {"domains": ["source"]},
    "train": {"self_training": None, "regularizer.on": ["source"]},
}


def colour_the_labels() -> None:
    palette = np.array([*CAMVID_11.palette, (0, 0, 0)], np.uint8)
    for path in sorted(Path("photos/day/labels").iterdir()):
        with Image.open(path) as label:
            ids = np.asarray(label)
        Image.fromarray(palette[ids.clip(max=len(CAMVID_11))]).save(path)


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
        "store in the home of nobody", "inspect ~nosuchuser/x.zarr", ("~nosuchuser", "no such user")
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
        "labels in RGB, ids expected",
        "prepare",
        ("photos/day/labels/00000.png", "RGB colours", "stores class ids", "correct the label"),
        colour_the_labels,
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
        "truncated image",
        "prepare",
        ("photos/day/images/00001.png", "damaged", "fetch the file again"),
        cut_in_half("photos/day/images/00001.png"),
    ),
    Case(
        "image changed after prepare, then embed",
        "embed -S embed.teacher.seed=1",
        ("photos/day/images/00001.png", "has changed", "ssr prepare"),
        copy("photos/day/images/00002.png", "photos/day/images/00001.png"),
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
        "label changed after prepare, then evaluate",
        "evaluate",
        ("photos/dusk_val/labels/00012.png", "has changed", "ssr prepare"),
        lambda: save_label("photos/dusk_val/labels/00012.png", 200),
    ),
    Case(
        "damaged manifest",
        "train",
        ("data/manifest.parquet", "damaged", "ssr prepare"),
        cut_in_half("data/manifest.parquet"),
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
        "train -S train.crop_px=96 --out elsewhere",
        ("crop of 96x96", "working image of 64x128", "ssr prepare"),
    ),
    Case(
        "no teacher weights",
        "embed -S embed.teacher.weights=sam.pth",
        ("sam.pth", "no such weight file", "embed.teacher.weights"),
    ),
    Case(
        "teacher weights of another architecture",
        "embed -S embed.teacher.weights=sam.pth -S embed.teacher.architecture=vit_b",
        ("sam.pth", "tiny", "vit_b", "change one"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "student for a teacher",
        "embed -S embed.teacher.weights=runs/checkpoint.pt",
        ("runs/checkpoint.pt", "holds no table of tensors", "network weights"),
    ),
    Case(
        "store folder is a file",
        "embed -S store.url=params.yaml",
        ("params.yaml", "Not a directory", "correct the path"),
    ),
    Case(
        "damaged index",
        "train",
        ("data/index.json", "no index of features", "ssr embed"),
        cut_in_half("data/index.json"),
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
        "store of another format",
        "train",
        ("data/features/source/", "format 3", "ssr embed"),
        lambda: edit(the_store("source") / "zarr.json", '"format": 2', '"format": 3'),
    ),
    Case(
        "overlap changed, no embed since",
        "train -S embed.overlap=0.25",
        ("data/index.json", "another tiling", "ssr embed", "old values"),
    ),
    Case(
        "level that is not stored",
        "train -S train.regularizer.levels=[stride16,stride8,stride8,stride8] "
        "-S embed.levels=[stride8,stride16]",
        ("data/features/source/", "no stride16", "embed.levels", "ssr embed"),
    ),
    Case(
        "domain that is not stored",
        "train",
        ("the index has no features of target", "embed.domains", "ssr embed"),
        embed_the_source_alone,
    ),
    Case(
        "rare class without enough pixels",
        "train -S train.rare_class_sampling.min_pixels=1000000",
        ("no image has more than 1000000 pixels", "train.rare_class_sampling.min_pixels"),
    ),
    Case(
        "no student to start from",
        "train -S train.init=nowhere",
        ("train.init: nowhere/config.json", "missing", "another student's folder"),
    ),
    Case(
        "student to start from that would be overwritten",
        "train -S train.init=runs/student",
        ("train.init is runs/student", "overwrites", "another --out"),
    ),
    Case(
        "student to start from of another head",
        "train --out runs/arm -S train.init=runs/student -S train.student.head=mlp",
        ("train.init", "runs/student", "another architecture", "make them equal"),
    ),
    Case(
        "backbone weights of another architecture",
        "train -S train.student.weights=sam.pth",
        ("train.student.weights: sam.pth", "another architecture", "choose the student"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "damaged checkpoint",
        "train",
        ("runs/checkpoint.pt", "damaged", "delete it"),
        cut_in_half("runs/checkpoint.pt"),
    ),
    Case(
        "another run in the folder",
        "train -S train.seed=1 -S train.log_every=1",
        ("runs holds another run (other train.seed)", "another --out", "--fresh", "runs/replaced"),
    ),
    Case(
        "features compared with those of a segmenter",
        "train --out runs/arm -S train.student.weights=trained.pth -S "
        "'train.feature_distance={weight: 0.005, classes: [road], min_share: 0.75}'",
        ("train.student.weights: trained.pth", "decode head", "ImageNet", "train.feature_distance"),
        lambda: save_backbone("trained.pth", head=True),
    ),
    Case(
        "results folder is a file",
        "train --out params.yaml",
        ("params.yaml", "File exists", "check the path"),
    ),
    Case(
        "damaged student",
        "evaluate",
        ("runs/student/model.safetensors", "sha256", "train the student again"),
        cut_in_half("runs/student/model.safetensors"),
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
        "export over a trained student",
        "export runs --out runs/best",
        ("runs/best holds a student that was trained here", "another folder"),
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
        "comparison with a best student that was not evaluated",
        "compare runs runs/best",
        ("runs/best/metrics.json", "`ssr evaluate --model runs/best`"),
    ),
    Case(
        "import of a student's folder",
        "import runs/student --out theirs",
        ("runs/student is a folder", "give the file in it"),
    ),
    Case(
        "size of more digits than Python reads",
        f"predict runs photos --out predicted --fit {'9' * 5000}x5",
        ("--fit 999", "WIDTHxHEIGHT"),
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
    Case(
        "inspect of a damaged shard",
        "inspect --recompute STORE",
        ("data/features/source/", "damaged", "ssr verify", "--repair"),
        lambda: flip_bits(shard("source", 0)),
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
