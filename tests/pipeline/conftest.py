"""Folders to work in, fresh or after the whole walk."""

import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from tests.pipeline.workplace import PHOTOS, SMALLEST, add_photos, demand, write_params


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: the smallest params of the drawn world, and nothing else."""
    write_params(tmp_path, SMALLEST)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(trained_on_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a world of image files, after the whole walk; free to be spoilt."""
    folder = tmp_path / "work"
    shutil.copytree(trained_on_photos, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def trained_on_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_params(folder, {**SMALLEST, **PHOTOS})
    add_photos(folder)
    with chdir(folder):
        for command in ("prepare", "embed", "train", "evaluate"):
            demand(command)
    return folder
