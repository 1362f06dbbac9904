"""Settings of the store's tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flush to the disk, most of the time of a write: no test pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
