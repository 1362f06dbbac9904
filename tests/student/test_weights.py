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
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from stages.student.heads import DAFormerHead
from stages.student.mit import BACKBONES, MiT, build_backbone
from stages.student.student import Student, seeded
from stages.student.weights import (
    is_of_segmenter,
    load_backbone,
)
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from store.errors import CheckpointError
from tests.official import export_official

TINY = BACKBONES["mit_tiny"]


def backbone(seed: int, mit: MiT = TINY, eps: float = 1e-6) -> SegformerModel:
    with seeded(seed):
        return build_backbone(mit, drop_path=0.1, norm_eps=eps)


def student(seed: int, num_classes: int = 3) -> Student:
    with seeded(seed):
        return Student(
            build_backbone(TINY, drop_path=0.0, norm_eps=1e-6),
            DAFormerHead(TINY.widths, 8, 8, num_classes, dropout=0.0),
        )


def regularizer(seed: int, levels: list[str | None]) -> CrossAttentionBranch:
    with seeded(seed):
        return CrossAttentionBranch(TINY.widths, {"stride8": 16}, TINY.heads, levels)


def official_mit(seed: int) -> dict[str, Tensor]:
    """Backbone weights as in an official `mit_b*.pth`, classifier of ImageNet included."""
    tensors = export_official(nn.ModuleDict({"backbone": backbone(seed)}).state_dict())
    bare = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    return bare | {"head.weight": torch.ones(1000, 128), "head.bias": torch.ones(1000)}


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def refusal(weights: str | Path, mit: MiT = TINY) -> str:
    """Load what cannot be loaded; return the line that says so."""
    ours = backbone(2, mit)
    with pytest.raises(CheckpointError) as error:
        load_backbone(ours, str(weights))
    assert "\n" not in str(error.value)
    assert_equal(ours, backbone(2, mit))
    return str(error.value)


def test_checkpoint_of_another_width_is_of_another_architecture(tmp_path: Path) -> None:
    path, tensors = tmp_path / "mit.pth", official_mit(seed=1)
    del tensors["block2.0.attn.kv.weight"]
    torch.save(tensors | {"cls_token": torch.ones(1)}, path)
    said = refusal(path, MiT((32, 64, 160, 256), TINY.depths))
    assert "checkpoint of another architecture" in said
    assert "backbone.patch_embed1.proj.weight (16, 3, 7, 7), not (32, 3, 7, 7)" in said
    assert "1 missing: backbone.block2.0.attn.kv.weight; 1 unexpected: backbone.cls" in said
    assert len(said) < 700  # hundreds of tensors differ


def test_a_truncated_file_and_one_with_a_flipped_bit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mit.pth"
    torch.save(official_mit(seed=1), path)
    data = path.read_bytes()
    weight = official_mit(seed=1)["patch_embed1.proj.weight"].numpy().tobytes()
    flipped = bytearray(data)
    flipped[data.index(weight[:64]) + 3] ^= 64
    for damaged in (data[:-100], data[: len(data) // 2], b"", bytes(flipped)):
        path.write_bytes(damaged)
        assert "is damaged or not a weight file" in refusal(path)


class Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("the file ran code",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"state_dict": Surprise()}, "which can run code"),
        ({0: torch.ones(2)}, "no table of tensors"),
        ({"norm1.weight": torch.eye(2).to_sparse()}, "no table of tensors"),
        ({"norm1.weight": torch.tensor([1.0, float("nan")])}, "norm1.weight holds values that are"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: object, says: str
) -> None:
    torch.save(content, tmp_path / "odd.pth")
    assert says in refusal(tmp_path / "odd.pth")
    assert capsys.readouterr().out == ""


def save_classifier(folder: Path) -> Path:
    """Write a Hugging Face folder as `nvidia/mit-b*` are: a classifier with its backbone inside."""
    config = SegformerConfig(
        hidden_sizes=TINY.widths, depths=TINY.depths, num_attention_heads=TINY.heads
    )
    with seeded(1):
        SegformerForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_classifier(tmp_path / "hugging")


@pytest.mark.parametrize("pickled", [False, True])
def test_hugging_face_folder_fills_the_backbone_and_keeps_the_epsilon(
    folder: Path, pickled: bool
) -> None:
    expected, file = SegformerModel.from_pretrained(folder), folder / "model.safetensors"
    if pickled:  # as the published ones are
        torch.save(load_file(file), folder / "pytorch_model.bin")
        file.unlink()
    ours = backbone(seed=2, eps=1e-6)
    load_backbone(ours, str(folder))
    assert_equal(ours, expected)
    stage = ours.stages[1]
    assert stage.layer_norm.eps == stage.blocks[0].layernorm_before.eps == 1e-6
    assert stage.patch_embeddings.layer_norm.eps == 1e-5
    assert ours.stages[3].blocks[0].drop_path.drop_prob == pytest.approx(0.1)


def test_what_comes_with_a_decode_head_is_not_imagenets(folder: Path, tmp_path: Path) -> None:
    assert not is_of_segmenter(str(folder))
    config = SegformerConfig.from_pretrained(folder)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segmenter")
    assert is_of_segmenter(str(tmp_path / "segmenter"))
    whole = export_official(student(1).state_dict())
    for name, tensors in {
        "mit.pth": {n.removeprefix("backbone."): t for n, t in whole.items() if "decode" not in n},
        "mmseg.pth": whole,
        "daformer.pth": {f"model.{n}": t for n, t in whole.items()},
    }.items():
        torch.save({"state_dict": tensors}, tmp_path / name)
        load_backbone(backbone(2), str(tmp_path / name))
        assert is_of_segmenter(str(tmp_path / name)) == (name != "mit.pth")


def test_hugging_face_folder_of_another_architecture_is_refused(folder: Path) -> None:
    for other in (MiT(TINY.widths, (1, 1, 2, 1)), MiT(TINY.widths, TINY.depths, (1, 1, 5, 8))):
        assert "checkpoint of another architecture" in refusal(folder, other)
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("layer_norm.3.bias"))]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 missing: backbone.norm4.bias" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "does not exist as a file; download it" in refusal(folder)


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


def refusal_at_once(name: str) -> str:
    started = time.monotonic()
    said = refusal(name)
    assert time.monotonic() - started < AT_ONCE_S
    assert len(said) < 260
    return said


def test_a_model_is_downloaded_and_then_needs_no_network(
    hub: ThreadingHTTPServer, models: Path
) -> None:
    published = save_classifier(models / "somebody" / "mit-tiny")
    said = refusal_at_once("somebody/mit-tnyi")
    assert "somebody/mit-tnyi: there is no such file or folder, and no such model" in said
    assert "correct the name" in said
    first, second = backbone(2), backbone(3)
    load_backbone(first, "somebody/mit-tiny")
    assert_equal(first, SegformerModel.from_pretrained(published))
    hub.shutdown()
    hub.server_close()
    started = time.monotonic()
    load_backbone(second, "somebody/mit-tiny")
    assert time.monotonic() - started < AT_ONCE_S
    assert_equal(first, second)


@pytest.mark.usefixtures("models")
def test_a_hub_that_does_not_answer_is_told_at_once() -> None:
    said = refusal_at_once("nvdia/mit-b5")
    assert "nvdia/mit-b5 from Hugging Face (ConnectError: " in said
    assert "id that this machine can reach" in said


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("name", ["rndom", "weights/mit_b5.pth", "a..b/c", "a/b.c-"])
def test_what_cannot_be_an_id_is_told_without_asking(name: str) -> None:
    said = refusal_at_once(name)
    assert f"{name}: there is no such file or folder, and it is not a Hugging Face id" in said
    assert "correct it, or say random" in said
