"""Weights, parameters and results that training and evaluation cannot use."""

import re
import shutil
from pathlib import Path

import pytest

from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    copy,
    cut_in_half,
    edit,
    identifier,
    remove,
    save_backbone,
    save_teacher,
    write,
)
from tests.pipeline.workplace import shard, stored


def rename_a_class() -> None:
    card = Path("runs/student/config.json")
    edit(card, '"sky"', '"heaven"')
    card.write_text(re.sub(r',\s+"sha256": "\w+"', "", card.read_text()))


CASES = [
    # train
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
        "student to start from of another width",
        "train --out runs/arm -S train.init=runs/student -S train.student.head_channels=8",
        ("train.init", "runs/student", "another architecture", "make them equal"),
    ),
    Case(
        "no backbone weights",
        "train -S train.student.weights=mit_b0.pth",
        ("train.student.weights: mit_b0.pth", "does not exist", "correct the path"),
    ),
    Case(
        "no folder of backbone weights",
        "train -S train.student.weights=./mit",
        ("train.student.weights: mit", "does not exist", "correct the path"),
    ),
    Case(
        "backbone weights of another architecture",
        "train -S train.student.weights=sam.pth",
        ("train.student.weights: sam.pth", "another architecture", "choose the student"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "backbone weights that are a picture",
        "train -S train.student.weights=photo.pth",
        ("train.student.weights: photo.pth", "damaged", "download it again"),
        copy("photos/day/images/00000.png", "photo.pth"),
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
        "thing class that there is not",
        "train -S train.student.weights=mit_tiny.pth -S "
        "'train.feature_distance={weight: 0.005, classes: [unicorn], min_share: 0.75}'",
        ("train.feature_distance.classes", "unicorn", "its classes are sky, "),
        lambda: save_backbone("mit_tiny.pth"),
    ),
    Case(
        "results folder is a file",
        "train --out params.yaml",
        ("params.yaml", "File exists", "check the path"),
    ),
    # evaluate
    Case(
        "evaluate before train",
        "evaluate --out runs/new",
        ("runs/new/student/config.json", "missing", "ssr train"),
    ),
    Case(
        "damaged student",
        "evaluate",
        ("runs/student/model.safetensors", "sha256", "train the student again"),
        cut_in_half("runs/student/model.safetensors"),
    ),
    Case(
        "student without weights",
        "evaluate",
        ("runs/student/model.safetensors", "missing", "train the student again"),
        remove("runs/student/model.safetensors"),
    ),
    Case(
        "student's card edited",
        "evaluate",
        ("runs/student/config.json", "no student of this project"),
        write("{}", "runs/student/config.json"),
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
        "averaged model of a run without one",
        "evaluate --weights ema --out runs/new",
        ("runs/new", "missing", "ssr train"),
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
        "model that is not there",
        "evaluate --model runs/nowhere",
        ("runs/nowhere", "no such folder", "ssr train"),
    ),
    Case(
        "nothing to measure on",
        "evaluate -S evaluate.domain=null",
        ("evaluate: domain is null", "name what to measure on"),
    ),
    Case(
        "dataset of another layout",
        "evaluate -S 'evaluate.datasets={night: {kind: camvid, root: nowhere}}'",
        ("evaluate.datasets.night.fit_px", "missing"),
    ),
    Case(
        "dataset whose folder is missing",
        "evaluate -S 'evaluate.datasets={night: {kind: camvid, root: photos, fit_px: null, "
        "splits: {train: dusk, val: b}}}'",
        ("photos/b/images", "no such folder"),
    ),
    Case(
        "metrics before evaluate",
        "metrics --out runs/new",
        ("runs/new/metrics.json", "no evaluation", "ssr evaluate"),
    ),
    Case(
        "comparison with a best student that was not evaluated",
        "compare runs runs/best",
        ("runs/best/metrics.json", "`ssr evaluate --model runs/best`"),
    ),
    Case(
        "import of a student's file",
        "import runs/student/model.safetensors --out theirs",
        ("a student of this project, which needs no import", "its folder runs/student"),
    ),
    Case(
        "import of a student's folder",
        "import runs/student --out theirs",
        ("runs/student is a folder", "give the file in it"),
    ),
    Case(
        "part of more digits than Python reads",
        f"embed --part 1/{'9' * 5000}",
        ("--part 1/999", "write it as I/N"),
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
    # inspect
    Case("inspect of no folder", "inspect nowhere", ("nowhere", "no feature store", "ssr embed")),
    Case(
        "inspect of a file",
        "inspect params.yaml",
        ("cannot read params.yaml/zarr.json", "correct the path"),
    ),
    Case("inspect of another folder", "inspect photos", ("photos", "no feature store")),
]


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_bad_input_of_training_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("stage", ["embed", "train", "evaluate"])
def test_asking_for_a_gpu_that_there_is_not(stage: str, photos: Path) -> None:
    if stage == "embed":  # it needs the GPU only where there is something to embed
        shard("source", 0).unlink()
    before = stored(photos)
    assert_refused(f"{stage} -S {stage}.device=cuda", f"{stage}.device is cuda", "no GPU", "auto")
    assert before.items() <= stored(photos).items()
