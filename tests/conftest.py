"""Fixtures for material beside the repository, a bucket, and a machine without a GPU."""

import logging
from collections.abc import Iterator
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
    return Reference(named or request.getfixturevalue("shared") / "reference")


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("needs the material in ../shared, which is not beside this clone")
    return SHARED


@pytest.fixture(scope="session")
def camvid(shared: Path) -> Path:
    return shared / "data" / "camvid"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch sees no GPU, wherever the test runs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 API on loopback, with credentials where AWS' tools look for them."""
    from moto.server import ThreadedMotoServer  # a second, which most tests do without
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "an-access-key-of-tests",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        S3FileSystem().mkdir("features-of-tests")
        yield "s3://features-of-tests"
    server.stop()
