"""A folder belongs to a run: whatever comes, the weights of another one are kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.student.student import load_student
from stages.train.workspace import claim
from store.errors import ConfigError
from tests.train.test_stage import REPOSITORY, files_of
from tests.train.world import World

ONE: dict[str, Any] = {"version": 1, "train": {"seed": 1, "optimizer": {"lr": 1.0}}}

OTHER: dict[str, Any] = {"version": 1, "train": {"seed": 2, "optimizer": {"lr": 1.0}}}


def occupy(out: Path, identity: dict[str, Any] = ONE) -> None:
    """Leave what a run leaves, and what belongs to others: runs, notes, a folder called ema."""
    out.mkdir(exist_ok=True)
    claim(out, identity, fresh=False, move_aside=False)
    for name in ("checkpoint.pt", "curves.csv", "student/config.json", "pictures/1.png"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(f"{identity} {name}")
    for name in ("daformer/checkpoint.pt", "notes.txt", "ema/notes.txt", "writer.lock"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("of others")


OWN = {"checkpoint.pt", "curves.csv", "student", "pictures", "run.json"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("held", ["checkpoint.pt", "student/config.json", "best/config.json"])
@pytest.mark.parametrize("note", [json.dumps(OTHER), None, "no JSON"])
def test_weights_that_are_not_known_to_be_of_this_run_are_a_mistake(
    tmp_path: Path, held: str, note: str | None
) -> None:
    (tmp_path / held).parent.mkdir(exist_ok=True)
    (tmp_path / held).write_text("weights")
    if note:
        (tmp_path / "run.json").write_text(note)
    before = files_of(tmp_path)
    with pytest.raises(ConfigError, match=r"holds another run .*; give another --out, or --fresh"):
        claim(tmp_path, ONE, fresh=False, move_aside=False)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(("identity", "fresh"), [(OTHER, False), (OTHER, True), (ONE, True)])
def test_what_moves_aside_is_whole_and_nothing_of_others(
    tmp_path: Path, identity: dict[str, Any], fresh: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        occupy(tmp_path)
        before = files_of(tmp_path)
        claim(tmp_path, identity, fresh=fresh, move_aside=not fresh)
        place = tmp_path / "replaced" / str(number)
        assert caplog.messages[-1].endswith(f"is now in {place}")
        assert names(place) == OWN
        moved = {path.replace(str(place), str(tmp_path)) for path in files_of(place)}
        left = files_of(tmp_path)
        assert all(left[path] == before[path] for path in before.keys() - moved)
        for path in moved:
            assert Path(path.replace(str(tmp_path), str(place))).read_bytes() == before[path]
        (tmp_path / "run.json").unlink()


@pytest.mark.parametrize("moved", range(6))
def test_a_move_that_was_killed_is_finished_in_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    occupy(tmp_path)
    rename, left = Path.rename, moved

    def killing(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killing)
        with pytest.raises(KeyboardInterrupt):
            claim(tmp_path, OTHER, fresh=False, move_aside=True)
    claim(tmp_path, OTHER, fresh=False, move_aside=False)
    assert names(tmp_path / "replaced") == {"1"}
    assert names(tmp_path / "replaced" / "1") == OWN


def test_links_move_and_their_targets_stay(tmp_path: Path) -> None:
    out, disk = tmp_path / "runs", tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "real").mkdir()
    out.symlink_to("real")
    occupy(out)
    for name in ("student", "checkpoint.pt"):
        (out / name).rename(disk / name)
        (out / name).symlink_to(Path("..") / "disk" / name)
    before = files_of(disk)
    claim(out, OTHER, fresh=False, move_aside=True)
    assert files_of(disk) == before
    assert names(tmp_path / "real" / "replaced" / "1") == OWN
    assert (out / "replaced/1/student/config.json").read_bytes() == before[
        str(disk / "student/config.json")
    ]


def test_all_that_dvc_expects_of_a_run_moves_with_it(tmp_path: Path) -> None:
    stages = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")["stages"]
    declared = [
        Path(path).name
        for stage in stages.values()
        for kind in ("outs", "plots", "metrics")
        for entry in stage.get(kind, ())
        for path in (entry if isinstance(entry, dict) else [entry])
        if path.startswith("runs/")
    ]
    occupy(tmp_path)
    for name in declared:
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text("")
    claim(tmp_path, OTHER, fresh=False, move_aside=True)
    assert {*declared} <= names(tmp_path / "replaced" / "1")


OFF = {"on": [], "levels": [None] * 4}


def train(world: World, out: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return load_student(world.run(out, iterations=1, regularizer=OFF, **changes).student)[1]


def test_data_and_recipe_travel_with_the_student(world: World, tmp_path: Path) -> None:
    meta = train(world, tmp_path, seed=3)
    assert meta["data"] == {
        "source": {"train_images": 6, "kind": "drawn", "fit_px": [120, 60]},
        "target": {"train_images": 6, "kind": "drawn", "fit_px": None},
    }
    assert meta["recipe"]["seed"] == 3
    assert meta["recipe"]["crop_px"] == 64
    assert "workers" not in meta["recipe"]
    assert meta["weights"] == "random"
