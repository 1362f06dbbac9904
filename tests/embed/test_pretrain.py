"""A pretrained teacher is the command's, bit for bit, and embed reads it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.embed.config import EmbedConfig
from stages.embed.pretrain import RECIPE, Recipe, run, save_encoder
from stages.embed.shipped import SHIPPED, weights_path
from stages.embed.teacher import draw_encoder, load_teacher
from stages.embed.weights import hash_weights
from store.errors import ConfigError

pytestmark = pytest.mark.costly

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


def test_embed_reads_what_was_pretrained(tmp_path: Path, embed_config: EmbedConfig) -> None:
    path, sha256 = made(tmp_path, "teacher.pth", replace(SHORT, iterations=1))
    teacher = load_teacher(embed_config.model_copy(update={"weights": str(path)}))
    assert teacher.trained
    assert teacher.weights_sha256 == sha256
    assert teacher.encode(torch.randn(1, 3, 256, 256)).isfinite().all()


def test_losses_fall(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = replace(SHORT, iterations=24, batch=4, scenes=4)
    run(
        recipe,
        seed=0,
        out=tmp_path / "teacher.pth",
        progress=lambda done, total, what: said.append(what),
    )
    assert said[0] == "drawing scenes"
    losses = np.array(
        [[float(part.split()[-1]) for part in line.split(",")] for line in said[recipe.scenes :]]
    )
    assert losses.shape == (24, 3)
    assert (losses[-4:].mean(0) < losses[:4].mean(0)).all()


def test_weights_are_saved_in_half_precision_and_hashed_as_saved(tmp_path: Path) -> None:
    encoder = draw_encoder(RECIPE.architecture, 0)
    sha256 = save_encoder(encoder, tmp_path / "teacher.pth")
    assert sha256 == hash_weights({n: t.half() for n, t in encoder.state_dict().items()})
    assert (tmp_path / "teacher.pth").stat().st_size < 4e6


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "teacher.pth").write_text("five minutes of work")
    with pytest.raises(ConfigError, match="is there already"):
        made(tmp_path, "teacher.pth")
    with pytest.raises(ConfigError, match="no such folder"):
        made(tmp_path / "absent", "teacher.pth")


def test_the_shipped_teacher_is_the_one_of_its_card(embed_config: EmbedConfig) -> None:
    teacher = load_teacher(embed_config.model_copy(update={"weights": "drawn"}))
    assert teacher.trained
    card = SHIPPED["drawn"].with_suffix(".md").read_text()
    assert teacher.weights_sha256 in card
    assert SHIPPED["drawn"].stat().st_size < 4e6


def test_a_name_that_is_not_shipped_is_a_path() -> None:
    assert weights_path("~/sam.pth") == Path.home() / "sam.pth"


@pytest.mark.slow
def test_the_whole_recipe_gives_the_same_weights_twice(tmp_path: Path) -> None:
    assert made(tmp_path, "one.pth", RECIPE)[1] == made(tmp_path, "other.pth", RECIPE)[1]
