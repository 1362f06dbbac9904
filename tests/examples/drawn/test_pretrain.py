"""A pretrained teacher is the command's, bit for bit, and embed reads it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.drawn import TEACHER
from examples.drawn.pretrain import RECIPE, main, run
from stages.embed.teachers.sam_encoder import hash_weights, load_encoder
from tests.embed.world import silent

SHORT = replace(RECIPE, scenes=3, views=1, iterations=3, batch=2)


def test_equal_seeds_give_equal_files_that_embed_reads_and_others_do_not(tmp_path: Path) -> None:
    threads, digests = torch.get_num_threads(), {}
    for name, seed in {"one": 0, "again": 0, "other": 1}.items():
        digests[name] = run(SHORT, seed=seed, out=tmp_path / name, progress=silent)
    assert digests["one"] == digests["again"] != digests["other"]
    one, again, other = ((tmp_path / name).read_bytes() for name in digests)
    assert one == again != other
    assert torch.get_num_threads() == threads
    encoder = load_encoder(RECIPE.architecture, tmp_path / "one")
    assert hash_weights(encoder.state_dict()) == digests["one"]
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
