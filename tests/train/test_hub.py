"""Weights by a name on Hugging Face: a hub in miniature on loopback, and names that are wrong."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import SegformerConfig, SegformerForImageClassification, SegformerModel

from stages.student.mit import BACKBONES, build_backbone
from stages.student.student import seeded
from stages.student.weights import load_backbone
from store.errors import CheckpointError

TINY = BACKBONES["mit_tiny"]
AT_ONCE_S = 5.0
"""transformers alone takes 25 s where nobody answers."""


class Hub(SimpleHTTPRequestHandler):
    """Serves `<owner>/<name>/resolve/main/<file>` with the headers that the hub sends."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        owner, name, *_, file = self.path.strip("/").split("/")
        folder = Path(self.directory) / owner / name
        data = (folder / file).read_bytes() if (folder / file).is_file() else None
        self.send_response(404 if data is None else 200)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound" if folder.is_dir() else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        if body:
            self.wfile.write(data or b"")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's models; it is at nobody's port until `hub` starts it."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        _point_at(nobody.getsockname()[1], monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "models"


@pytest.fixture
def hub(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """The hub answers, until it is shut down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(models)))
    _point_at(server.server_port, monkeypatch)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _point_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def backbone(seed: int) -> SegformerModel:
    with seeded(seed):
        return build_backbone(TINY, drop_path=0.1, norm_eps=1e-6)


def publish(models: Path) -> None:
    """Put a model onto the hub as `nvidia/mit-b*` are."""
    config = SegformerConfig(
        hidden_sizes=TINY.widths, depths=TINY.depths, num_attention_heads=TINY.heads
    )
    with seeded(1):
        SegformerForImageClassification(config).save_pretrained(models / "somebody" / "mit-tiny")


def assert_equal(one: SegformerModel, other: SegformerModel) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def refusal(weights: str) -> str:
    """Load what cannot be loaded; return the line that says so, which comes at once."""
    started = time.monotonic()
    with pytest.raises(CheckpointError) as error:
        load_backbone(backbone(2), weights)
    assert time.monotonic() - started < AT_ONCE_S
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 260
    return str(error.value)


@pytest.mark.usefixtures("hub")
def test_a_model_is_downloaded_and_fills_the_backbone(models: Path) -> None:
    publish(models)
    ours = backbone(2)
    load_backbone(ours, "somebody/mit-tiny")
    assert_equal(ours, SegformerModel.from_pretrained(models / "somebody/mit-tiny"))


def test_a_model_that_was_downloaded_once_needs_no_network(
    hub: ThreadingHTTPServer, models: Path
) -> None:
    publish(models)
    first, second = backbone(2), backbone(3)
    load_backbone(first, "somebody/mit-tiny")
    hub.shutdown()
    hub.server_close()
    started = time.monotonic()
    load_backbone(second, "somebody/mit-tiny")
    assert time.monotonic() - started < AT_ONCE_S
    assert_equal(first, second)


@pytest.mark.usefixtures("hub")
def test_a_model_that_the_hub_does_not_have_is_a_wrong_name(models: Path) -> None:
    publish(models)
    said = refusal("somebody/mit-tnyi")
    assert "somebody/mit-tnyi: there is no such file or folder, and no such model" in said
    assert "correct the name" in said


@pytest.mark.usefixtures("models")
def test_a_hub_that_does_not_answer_is_told_at_once() -> None:
    said = refusal("nvdia/mit-b5")
    assert "nvdia/mit-b5 from Hugging Face, which does not answer (ConnectError)" in said
    assert "id that this machine can reach" in said


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", ["rndom", "mit_b5", "weights/b5/best", "a..b/c", "-/b", "a/b.c-"])
def test_what_cannot_be_an_id_is_told_without_asking(name: str) -> None:
    said = refusal(name)
    assert f"{name}: there is no such file or folder, and it is not a Hugging Face id" in said
    assert "correct it, or say random" in said
