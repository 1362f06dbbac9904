"""A store in a bucket is as in a folder, also where the server is busy, refuses or breaks off."""

import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeAlias

import numpy as np
import pytest
from s3fs import S3FileSystem
from werkzeug.datastructures import Headers

from store.convert import convert
from store.errors import StoreError, StoreUnreadableError
from store.files import S3Files, files_at, join
from store.index import Index
from store.read import FeatureReader, open_features
from store.summary import inspect, open_dataset
from store.write import StoreWriter
from tests.store.worlds import LEVELS, SPEC, changed, features, files, images, write

IMAGES, MORE = images(4), images(7)
XML: Final = "<Error><Code>{}</Code><Message>of\nthe test</Message></Error>"
FAULTS: Final = {
    "busy": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "refused": (403, "AccessDenied"),
}

Fault: TypeAlias = Callable[[str, str], str | None]
"""Says of method and path of a request what is to go wrong: busy, error, refused, cut or reset."""


def no_fault(method: str, path: str) -> None:
    """All is well."""


@pytest.fixture
def server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Choose by its `fault` what the server of the bucket does wrong."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    chosen, well = SimpleNamespace(fault=no_fault), DomainDispatcherApplication.__call__

    def answer(app: Any, environ: dict[str, Any], start: Callable[..., Any]) -> Any:  # noqa: ANN401
        fault = chosen.fault(environ["REQUEST_METHOD"], environ["RAW_URI"])
        if fault == "reset":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        if fault in FAULTS:
            status, code = FAULTS[fault]
            body = XML.format(code).encode()
            start(f"{status} of the test", [("Content-Length", str(len(body)))])
            return [body] if environ["REQUEST_METHOD"] != "HEAD" else []
        if fault != "cut":
            return well(app, environ, start)
        said: list[Any] = []
        body = b"".join(well(app, environ, lambda *about: said.extend(about)))
        headers = Headers(said[1])
        headers.setdefault("Content-Length", str(len(body)))
        start(said[0], list(headers))
        return [body[: len(body) // 2]]

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", answer)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # instead of 5, whose pauses are long
    S3FileSystem.clear_instance_cache()
    yield chosen
    S3FileSystem.clear_instance_cache()


def once_for_each(fault: str) -> Fault:
    """Return what goes wrong with the first request of each kind, to each folder of a store."""
    met = set()

    def choose(method: str, path: str) -> str | None:
        kind = method, path.split(".zarr/")[-1].rpartition("/")[0]
        if kind in met:
            return None
        met.add(kind)
        return fault

    return choose


@pytest.mark.parametrize("fault", ["busy", "error", "cut", "reset"])
def test_what_goes_wrong_once_is_tried_again(
    server: SimpleNamespace, bucket: str, fault: str
) -> None:
    place, well = f"{bucket}/once-{fault}", f"{bucket}/well"
    server.fault = once_for_each(fault)
    entry, tasks = write(place, IMAGES[:1], levels=("stride8",))
    assert len(tasks) == 1
    server.fault = once_for_each(fault)
    FeatureReader(join(place, entry.path)).window(IMAGES[0].image_id, "stride8", 0, 0, 8, 8)
    server.fault = no_fault
    assert write(well, IMAGES[:1], levels=("stride8",))[0] == entry
    assert files(join(place, entry.path)) == files(join(well, entry.path))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("busy", "the server answers 503"),
        ("error", "the server answers 500"),
        ("refused", "the server answers 403"),
        ("reset", "reset|closed|connect"),
    ],
)
def test_what_stays_wrong_is_one_line_with_url_and_code_and_costs_nothing(
    server: SimpleNamespace, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str, says: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    place = f"{bucket}/stays-{fault}"
    entry, _ = write(place, IMAGES)
    store = join(place, entry.path)
    before = files(store)
    wanted = [*IMAGES[:3], changed(IMAGES[3])]  # in the second shard
    server.fault = lambda method, path: fault if "/stride8/c.1." in path else None
    with pytest.raises(StoreUnreadableError, match=f"(?i)cannot read {store}.*({says})") as read:
        FeatureReader(store).window(IMAGES[3].image_id, "stride8", 0, 0, 8, 8)
    assert "\n" not in str(read.value)
    for look in (S3Files(str(store)).size, S3Files(str(store)).delete):
        with pytest.raises(OSError, match=r"\w") as caught:
            look("stride8/c.1.0.0.0")
        assert not isinstance(caught.value, FileNotFoundError)
    server.fault = lambda method, path: fault if "/leases/1-of-1." in path else None
    line = rf"(?i)cannot write {store}/ledger/leases/1-of-1.*: .*({says})"
    with pytest.raises(StoreError, match=line) as written:
        write(place, wanted)
    assert "\n" not in str(written.value)
    server.fault = no_fault
    assert files(store) == before


def test_an_endpoint_that_is_no_url_is_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://[::1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="correct AWS_ENDPOINT_URL"):
        S3Files(f"{bucket}/a").read("a")
    S3FileSystem.clear_instance_cache()


def test_a_bucket_is_written_continued_read_converted_and_shown(
    bucket: str, tmp_path: Path
) -> None:
    place = f"{bucket}/all"
    entry, _ = write(place, MORE)
    store = join(place, entry.path)
    before = files(store)
    assert write(tmp_path, MORE)[0] == entry
    assert before == files(tmp_path / entry.path)
    for name in ("stride8/c.1.0.0.0", "ledger/stride16/000002.json", "zarr.json"):
        files_at(store).delete(name)
    _, tasks = write(place, MORE)
    assert [(task.shard, task.levels) for task in tasks] == [(1, ("stride8",)), (2, ("stride16",))]
    assert files(store) == before
    converted = join(place, convert(store, "int8-zstd").path)
    index, contents = Index(stores={"source": entry}), {i.image_id: i.content for i in MORE}
    reader = open_features(place, index, "source", levels=LEVELS, images=contents)
    for image in MORE[:2]:
        wanted = features(image, "stride8").astype(np.float16)[:, 3:12, 1:8]
        window = (image.image_id, "stride8", 3, 1, 9, 7)
        np.testing.assert_array_equal(reader.window(*window), wanted)
        np.testing.assert_allclose(FeatureReader(converted).window(*window), wanted, atol=0.1)
    summary = inspect(converted)
    assert summary.complete
    assert summary.codec == "int8-zstd"
    shown = open_dataset(converted)["stride16"].sel(image=MORE[3].image_id).values
    held = FeatureReader(converted).window(MORE[3].image_id, "stride16", 0, 0, 10, 12)
    np.testing.assert_array_equal(shown[:, :10, :12], held)


def test_credentials_stay_in_the_environment(bucket: str) -> None:
    place = f"{bucket}/secrets"
    entry, _ = write(place, MORE)
    everything = b"".join(files(join(place, entry.path)).values())
    assert b"key-of-tests" not in everything
    reader = FeatureReader(join(place, entry.path))
    reader.window(MORE[0].image_id, "stride8", 0, 0, 2, 2)
    assert b"key-of-tests" not in pickle.dumps(reader)
    with StoreWriter(place, SPEC, images(8), LEVELS) as writer:
        assert b"key-of-tests" not in pickle.dumps(writer.shards)


@pytest.mark.parametrize("url", ["gs://bucket/prefix", "s3://", "http://host/stores"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="neither a folder nor s3://bucket/prefix"):
        write(url, MORE)


def test_a_bucket_that_is_not_there_gives_one_line(bucket: str) -> None:
    with pytest.raises(
        StoreError, match=r"cannot write s3://nowhere-at-all/.*: .*bucket"
    ) as caught:
        write("s3://nowhere-at-all/prefix", MORE)
    assert "\n" not in str(caught.value)
