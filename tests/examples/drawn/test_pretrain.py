"""A pretrained teacher is the command's, bit for bit, and embed reads it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.drawn import TEACHER
from examples.drawn.pretrain import RECIPE, Recipe, main, run
from stages.embed.teachers.sam_encoder import hash_weights, load_encoder

SHORT = replace(RECIPE, scenes=3, views=1, iterations=3, batch=2)


def silent(done: int, total: int, what: str) -> None:
    """Report to nobody."""


def made(folder: Path, name: str, recipe: Recipe = SHORT, seed: int = 0) -> tuple[Path, str]:
    return folder / name, run(recipe, seed=seed, out=folder / name, progress=silent)


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    (one, its), (again, the_same) = made(tmp_path, "one.pth"), made(tmp_path, "again.pth")
    other, another = made(tmp_path, "other.pth", seed=1)
    assert its == the_same != another
    assert one.read_bytes() == again.read_bytes() != other.read_bytes()
    assert torch.get_num_threads() == threads


def test_embed_reads_what_was_pretrained(tmp_path: Path) -> None:
    path, sha256 = made(tmp_path, "teacher.pth", replace(SHORT, iterations=1))
    encoder = load_encoder(RECIPE.architecture, path)
    assert hash_weights(encoder.state_dict()) == sha256
    assert encoder(torch.randn(1, 3, 256, 256)).isfinite().all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "there.pth"], "there.pth: is there already"),
        (["--out", "teacher.pth", "--iterations", "0"], "--iterations"),
    ],
)
def test_what_cannot_be_pretrained_is_told_before_any_work(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.pth").write_text("five minutes of work")
    monkeypatch.setattr("sys.argv", ["pretrain", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert says in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["there.pth"]


def test_the_teacher_is_the_one_of_its_card() -> None:
    sha256 = hash_weights(load_encoder(RECIPE.architecture, TEACHER).state_dict())
    assert sha256 in TEACHER.with_suffix(".md").read_text()
    assert TEACHER.stat().st_size < 4e6
