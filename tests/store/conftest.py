"""Settings of the store's tests, and the places that a store can live in."""

import os
import uuid
from pathlib import Path

import pytest

from store.files import Url


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flush to the disk, most of the time of a write: no test pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Url:
    """An empty place for stores: a folder, then a prefix of a bucket."""
    if request.param == "local":
        return Path(request.getfixturevalue("tmp_path")) / "features"
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"
