"""Folders to work in, fresh or after the whole walk."""

from pathlib import Path

import pytest

from tests.pipeline.workplace import PHOTOS, SMALLEST, add_photos, enter_copy, made, write_params


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the smallest params of the drawn world, and nothing else."""
    write_params(tmp_path, SMALLEST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(trained_on_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a world of image files, after the whole walk; free to be spoilt."""
    return enter_copy(trained_on_photos, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def trained_on_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    add_photos(folder)
    return made(folder, {**SMALLEST, **PHOTOS}, "prepare", "embed", "train", "evaluate")
