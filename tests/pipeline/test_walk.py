"""The whole walk through the commands once more, in part, and in another folder."""

import shutil
from pathlib import Path

from tests.pipeline.workplace import change_params, demand, stored

UNTRAINED = "UNTRAINED TEACHER"


def test_a_run_of_its_own_folder_leaves_the_others_alone(photos: Path) -> None:
    before = stored(photos)
    shutil.rmtree("data/features")
    Path("data/index.json").unlink()
    assert UNTRAINED not in demand("train", "-S", "train.regularizer.on=[]", "--out", "runs/plain")
    said = demand("evaluate", "--out", "runs/plain")
    assert UNTRAINED not in said
    assert "runs/plain/metrics.json: 2 images" in said
    demand("report", "--out", "runs/plain")
    assert "It read no features of a teacher" in Path("runs/plain/report.html").read_text()
    runs = {name: digest for name, digest in before.items() if name.startswith("runs/")}
    assert runs.items() <= stored(photos).items()


def test_the_source_alone_is_enough_without_self_training(workplace: Path) -> None:
    alone = {
        "prepare.target": None,
        "embed.domains": ["source"],
        "train.self_training": None,
        "train.regularizer.on": ["source"],
        "evaluate.domain": "source",
    }
    change_params(workplace, alone)
    for command in ("prepare", "embed", "train"):
        demand(command)
    assert "2 images" in demand("evaluate")
