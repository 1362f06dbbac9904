"""Fixtures for material beside the repository; tests skip by name where it is absent."""

from pathlib import Path

import pytest

from tests.parity.cases import Reference

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        help="folder of reference vectors computed by the official code (../shared/reference)",
    )


@pytest.fixture(scope="session")
def reference(request: pytest.FixtureRequest) -> Reference:
    named: Path | None = request.config.getoption("--reference-dir")
    if named is not None and not named.is_dir():
        raise pytest.UsageError(f"--reference-dir {named}: there is no such folder")
    return Reference(named or SHARED / "reference")


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs the material in ../shared, which is not beside this clone")
    return SHARED


@pytest.fixture(scope="session")
def camvid(shared: Path) -> Path:
    folder = shared / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip(f"needs the CamVid images in {folder}")
    return folder
