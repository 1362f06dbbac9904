"""Fixtures for material beside the repository, a bucket, and a machine without a GPU."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parity.cases import Reference

# Commands write into a pipe here; xdist tells its processes the width of the terminal, which the
# console of `ssr` would obey.
os.environ.pop("COLUMNS", None)

HOSTILE = (
    "[red]x[/red]", "[/]", "<script>y</script>",
    "a|b", "`c`", ":car:", "*d*", "~~e~~", "&amp;", "\\f"
)  # fmt: skip
"""Names that mean something in rich's markup, Markdown or HTML."""

SLOW_FIXTURES = {
    "bucket",  # a server that speaks S3
    "first",  # a repository after its first `dvc repro`
    "done",  # what several ranks have trained
    "killed",  # runs of training that were killed and went on
}
"""Whoever uses one is run by `make test-all`, not by `make test`."""

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference-dir",
        type=Path,
        help="folder of reference vectors computed by the official code (../shared/reference)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what needs a slow fixture; a test may take `bucket` by its `place`."""
    for item in items:
        if isinstance(item, pytest.Function):
            in_bucket = "callspec" in vars(item) and item.callspec.params.get("place") == "s3"
            if in_bucket or not SLOW_FIXTURES.isdisjoint(item.fixturenames):
                item.add_marker("slow")


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
