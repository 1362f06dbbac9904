"""`dvc repro` runs what is out of date, and nothing else."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.train.monitor import COLUMNS, HEALTH_COLUMNS, VALIDATION_COLUMNS
from tests.pipeline.repository import Repro, demand_repro, make_repository, repro
from tests.pipeline.workplace import (
    PHOTOS,
    REPOSITORY,
    SMALLEST,
    add_photo,
    add_photos,
    change_params,
    stored,
    the_store,
    times,
)

ALL = ["prepare", "restyle", "embed", "label", "start", "train", "evaluate", "report"]
CHECKS, COSTLY = ALL[:5], ALL[5:]
DVC = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Repro]:
    """A repository after its first `dvc repro`."""
    folder = tmp_path_factory.mktemp("dvc") / "repository"
    make_repository(folder, {**SMALLEST, **PHOTOS})
    add_photos(folder)
    return folder, demand_repro(folder)


@pytest.fixture
def repository(first: tuple[Path, Repro], tmp_path: Path) -> Path:
    """A copy of that repository, times of files included."""
    shutil.copytree(first[0], tmp_path / "repository")
    return tmp_path / "repository"


def shards(folder: Path) -> dict[str, int]:
    """When each shard was written, by `<domain>/<store>/<level>/<file>`."""
    features = folder / "data" / "features"
    return {
        name: time for name, time in times(features).items() if "/stride" in name and "/c." in name
    }


def written(folder: Path, before: dict[str, int]) -> list[str]:
    """Shards that are new or were written again, without the store's name."""
    new = sorted(name for name, time in shards(folder).items() if before.get(name) != time)
    return [re.sub(r"/\w{8}\.zarr/", "/", name) for name in new]


def test_dvc_plots_columns_that_there_are() -> None:
    columns = {
        "runs/curves.csv": COLUMNS,
        "runs/health.csv": HEALTH_COLUMNS,
        "runs/validation.csv": VALIDATION_COLUMNS,
        "runs/per_class.csv": ("class", "iou", "accuracy"),
    }
    seen = set()
    for plot in DVC["plots"]:
        for name, axes in plot.items():
            for axis in (axes["x"], axes["y"]):
                of_file = axis if isinstance(axis, dict) else {name: axis}
                for file, wanted in of_file.items():
                    names = [wanted] if isinstance(wanted, str) else wanted
                    assert set(names) <= set(columns[file]), name
                    seen.add(file)
    assert seen == set(columns)


def test_the_first_repro_runs_everything_without_a_warning(first: tuple[Path, Repro]) -> None:
    folder, done = first
    assert (done.ran, done.skipped) == (ALL, [])
    assert "mean IoU" in done.out
    assert done.out.count("UNTRAINED TEACHER") == 2  # after training and after evaluation
    # Nothing from libraries: our own remark alone.
    assert done.err == "UNTRAINED TEACHER: embed.teacher.weights is random\n"
    ignored = (folder / ".gitignore").read_text().split()
    assert {"/data/", "/runs/"} <= set(ignored)


def test_a_second_repro_only_checks(repository: Path) -> None:
    content, features, training = (
        stored(repository),
        shards(repository),
        times(repository / "runs" / "student"),
    )
    done = demand_repro(repository)
    assert (done.ran, done.skipped) == (CHECKS, COSTLY)
    assert stored(repository) == content
    assert shards(repository) == features
    assert times(repository / "runs" / "student") == training


def test_changed_parameters_make_their_own_stage_out_of_date(repository: Path) -> None:
    assert repro(repository, "--dry").ran == CHECKS
    change_params(repository, {"train.optimizer.lr": 2e-3})
    assert repro(repository, "--dry").ran == [
        *CHECKS,
        "train",
        "report",
    ]  # the student is the old one yet
    change_params(repository, {"train.optimizer.lr": 1e-3, "evaluate.pictures": 1})
    assert repro(repository, "--dry").ran == [*CHECKS, "evaluate", "report"]


@pytest.mark.slow
def test_changing_training_reruns_training_and_evaluation_only(repository: Path) -> None:
    features, before = shards(repository), stored(repository)
    change_params(repository, {"train.optimizer.lr": 2e-3})
    done = demand_repro(repository)
    assert done.ran == ALL
    assert done.out.count(" 0 embedded now") == 2
    assert shards(repository) == features
    changed = {name for name, digest in stored(repository).items() if before.get(name) != digest}
    assert "runs/student/model.safetensors" in changed
    assert all(name.startswith("runs/") for name in changed)
    assert "runs: the run that was there is now in runs/replaced/1" in done.err
    for name, digest in before.items():  # the old run is whole, with what was made of it
        if name.startswith("runs/") and name != "runs/writer.lock":
            assert stored(repository)[name.replace("runs/", "runs/replaced/1/")] == digest


def test_a_deleted_shard_is_healed_without_training_again(repository: Path) -> None:
    content, features, training = (
        stored(repository),
        shards(repository),
        times(repository / "runs" / "student"),
    )
    (the_store("target", repository) / "stride8" / "c.0.0.0.0").unlink()
    done = demand_repro(repository)
    assert (done.ran, done.skipped) == (CHECKS, COSTLY)
    assert written(repository, features) == ["target/stride8/c.0.0.0.0"]
    assert stored(repository) == content
    assert times(repository / "runs" / "student") == training


def test_an_added_image_embeds_one_shard_only(repository: Path) -> None:
    features = shards(repository)
    add_photo(repository / "photos" / "day", 20, "day")  # sorted behind the others
    add_photo(repository / "photos" / "dusk", 5, "dusk")  # sorted before the others
    done = demand_repro(repository, "embed")
    assert done.ran == ["prepare", "restyle", "embed"]
    assert written(repository, features) == ["source/stride8/c.1.0.0.0", "target/stride8/c.1.0.0.0"]
    again = repro(repository, "--dry")
    assert again.ran == ALL  # the index changed, so the student is out of date


def test_a_mistake_ends_repro_with_its_line_and_costs_nothing(repository: Path) -> None:
    content = stored(repository)
    change_params(repository, {"prepare.source.rot": "photos"})
    done = repro(repository)
    assert done.code != 0
    assert done.ran == ["prepare"]
    (line,) = (line for line in done.err.splitlines() if line.startswith("ssr: "))
    assert "prepare.source.rot is not a known key" in line
    assert "Traceback" not in done.err
    assert stored(repository) == content
