"""A bucket whose server is busy, refuses or breaks off: what passes is waited for."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import pytest
from s3fs import S3FileSystem

from store.errors import StoreError, StoreUnreadableError
from store.files import S3Files, join
from store.read import FeatureReader
from tests.store.worlds import changed, files, images, write

IMAGES = images(4)
XML: Final = "<Error><Code>{}</Code><Message>of\nthe test</Message></Error>"
FAULTS: Final = {
    "busy": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "refused": (403, "AccessDenied"),
}

Fault: TypeAlias = Callable[[str, str], str | None]
"""Says of method and path of a request what is to go wrong: busy, error, refused, cut or reset."""


class BadServer(ThreadingHTTPServer):
    """Passes requests on to a real S3 API, but for those that a fault is chosen for."""

    daemon_threads = True
    fault: Fault = staticmethod(lambda method, path: None)

    def __init__(self, behind: str) -> None:
        self.behind = behind
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that were reset on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BadServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.fault(self.command, self.path)
        self.close_connection = fault is not None
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        if fault in FAULTS:
            status, code = FAULTS[fault]
            self._send(status, [], XML.format(code).encode())
            return
        behind = HTTPConnection(self.server.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        found = behind.getresponse()
        self._send(found.status, found.getheaders(), found.read(), cut=fault == "cut")
        behind.close()

    def _send(
        self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def server(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadServer]:
    """A server before that of the bucket, which all clients of this test talk to."""
    bad = BadServer(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
    thread = Thread(target=bad.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bad.server_address[1]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # instead of 5, whose pauses are long
    S3FileSystem.clear_instance_cache()
    yield bad
    S3FileSystem.clear_instance_cache()
    bad.shutdown()
    thread.join()
    bad.server_close()


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
def test_what_goes_wrong_once_is_tried_again(server: BadServer, bucket: str, fault: str) -> None:
    place, well = f"{bucket}/once-{fault}", f"{bucket}/well"
    server.fault = once_for_each(fault)
    entry, tasks = write(place, IMAGES[:1], levels=("stride8",))
    assert len(tasks) == 1
    server.fault = once_for_each(fault)
    FeatureReader(join(place, entry.path)).window(IMAGES[0].image_id, "stride8", 0, 0, 8, 8)
    server.fault = BadServer.fault
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
    server: BadServer, bucket: str, monkeypatch: pytest.MonkeyPatch, fault: str, says: str
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
    server.fault = BadServer.fault
    assert files(store) == before


@pytest.mark.parametrize("endpoint", ["garbage", "http://[::1"])
def test_an_endpoint_that_is_no_url_is_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="correct AWS_ENDPOINT_URL"):
        S3Files(f"{bucket}/a").read("a")
    S3FileSystem.clear_instance_cache()
