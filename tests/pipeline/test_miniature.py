"""The miniature experiment: arms differ as they say, and tables are arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.miniature.arms import ARMS, BASELINE, folder_of
from benchmarks.miniature.plot import plot
from benchmarks.miniature.tables import difference_table
from benchmarks.miniature.vit import write_vit
from benchmarks.tables import arm_table, class_table
from examples.drawn import TEACHER
from stages.embed.teachers.sam_encoder import fuse_attention, load_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.student.rein_vfm import FrozenViT
from stages.student.student import load_student
from tests.pipeline.workplace import REPOSITORY, times


def test_the_published_tables_and_plot_are_of_the_published_results() -> None:
    benchmarks = REPOSITORY / "benchmarks"
    results = json.loads((benchmarks / "miniature" / "test.json").read_text())["results"]
    published = (benchmarks / "README.md").read_text()
    for table in (arm_table(results, BASELINE), difference_table(results), class_table(results)):
        assert table in published
    assert (benchmarks / "miniature.svg").read_text() == plot(results, "test")
    milder = json.loads((benchmarks / "miniature" / "test-0.7.json").read_text())["results"]
    for table in (arm_table(milder, BASELINE), difference_table(milder)):
        assert table in published


def test_rein_refines_the_blocks_of_the_drawn_worlds_teacher(tmp_path: Path) -> None:
    write_vit(tmp_path)
    frozen = FrozenViT(tmp_path, 256)
    encoder = fuse_attention(load_encoder(ARCHITECTURES["tiny"], TEACHER))
    expected: list[torch.Tensor] = []
    for block in encoder.get_submodule("blocks").children():
        block.register_forward_hook(lambda _, __, out: expected.append(out))
    tile = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        encoder(tile)
        hidden, grid = frozen.enter(tile)
        for run, tokens in zip(frozen.runners(frozen.blocks, grid), expected, strict=True):
            hidden = run(hidden)
            torch.testing.assert_close(hidden, tokens.flatten(1, 2), rtol=0, atol=1e-5)


def miniature(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    small = ["--seeds=2", "--steps=2", "--warm-steps=2", "--jobs=1"]
    for key, value in {
        **{f"prepare.{domain}.train": 3 for domain in ("source", "target")},
        **{f"evaluate.datasets.{style}.val": 1 for style in ("dusk", "fog", "night")},
        "train.rare_class_sampling": "null",
    }.items():
        small += ["-S", f"{key}={value}"]
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.miniature", "--out", str(folder), *small, *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_all_arms_run_and_a_second_call_trains_and_measures_nothing_again(tmp_path: Path) -> None:
    first = miniature(tmp_path)
    assert first.returncode == 0, first.stderr
    noted = json.loads((tmp_path / "val.json").read_text())
    assert {each["arm"] for each in noted["results"]} == set(ARMS)
    assert noted["plan"]["longer"] == round(2 * noted["plan"]["ratio"])
    weights = {name: student_of(tmp_path, name) for name in ("SSR", "SSR, online", "SSR, shuffled")}
    assert len({tuple(each.tolist()) for each in weights.values()}) == 3
    before = times(tmp_path / "runs"), times(tmp_path / "worlds")
    second = miniature(tmp_path)
    assert second.stdout.splitlines()[-5:] == first.stdout.splitlines()[-5:]
    assert (times(tmp_path / "runs"), times(tmp_path / "worlds")) == before
    elsewhere = miniature(tmp_path / "elsewhere", "--known", str(tmp_path / "val.json"))
    assert elsewhere.stdout == first.stdout[first.stdout.index("Images: val") :]
    assert not (tmp_path / "elsewhere" / "runs").exists()
    other = miniature(tmp_path, "--steps=3")
    assert other.returncode == 2
    assert "was made with other --steps" in other.stderr


def student_of(folder: Path, name: str) -> torch.Tensor:
    student, _ = load_student(folder / "runs" / "1" / folder_of(name) / "student")
    return torch.cat([weight.detach().flatten() for weight in student.parameters()])
