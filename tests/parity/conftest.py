"""Folders of reference vectors beside those of SSR."""

from pathlib import Path

import pytest

from tests.parity.cases import Reference


def pytest_addoption(parser: pytest.Parser) -> None:
    for name, methods in (("seeds", "SeMask and Rein"), ("hrda", "HRDA")):
        parser.addoption(
            f"--{name}-dir",
            type=Path,
            help=f"folder of reference vectors of {methods} (../shared/reference-{name})",
        )


def folder(request: pytest.FixtureRequest, name: str) -> Reference:
    named: Path | None = request.config.getoption(f"--{name}-dir", default=None)
    if named is not None and not named.is_dir():
        raise pytest.UsageError(f"--{name}-dir {named}: there is no such folder")
    return Reference(named or request.getfixturevalue("shared") / f"reference-{name}")


@pytest.fixture(scope="session")
def seeds(request: pytest.FixtureRequest) -> Reference:
    return folder(request, "seeds")


@pytest.fixture(scope="session")
def hrda_reference(request: pytest.FixtureRequest) -> Reference:
    return folder(request, "hrda")
