"""Weight files as people publish them: taken as the plain ones, or refused by what they hold."""

import errno
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamVisionConfig, SamVisionModel

from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.sam_encoder import (
    PREFIX,
    draw_encoder,
    hash_weights,
    load_encoder,
    read_weights,
)
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.student.weights import load_backbone, to_segformer
from store.errors import CheckpointError
from tests.pipeline.workplace import REPOSITORY
from tests.student.test_weights import assert_equal, backbone, official_mit

GENERATOR = REPOSITORY.parent / "shared" / "faults" / "checkpoints_sam.py"
TINY = ARCHITECTURES["tiny"]

TAKEN = ("sam_model.pth", "sam_module.pth", "sam_lightning.ckpt", "sam.safetensors")
REFUSED = {
    "sam_nan.pth": r"sam_nan\.pth: .*lin1\.weight holds values that are not finite",
    "sam_numpy.pth": r"holds other Python objects \(numpy\S*scalar\).* save its state_dict alone",
}

# It imports modules by the names that they had when it was written.
_RUN_GENERATOR = """
import runpy, sys
import stages.embed.teachers.sam_sizes, stages.embed.teachers.sam_encoder
sys.modules["stages.embed.architectures"] = stages.embed.teachers.sam_sizes
sys.modules["stages.embed.teacher"] = stages.embed.teachers.sam_encoder
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Table = Mapping[str, Tensor]


def behind(prefix: str, table: Table) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in table.items()}


def teacher(path: Path) -> Encoder:
    return Encoder(load_encoder(TINY, path), TINY.side_px, torch.device("cpu"), "float32")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not GENERATOR.is_file():
        pytest.skip(f"{GENERATOR} is not there: the generators are no part of the repository")
    out = tmp_path_factory.mktemp("published")
    command = [sys.executable, "-c", _RUN_GENERATOR, str(GENERATOR), str(out)]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    return out


def test_every_published_checkpoint_is_taken_as_the_plain_one_or_refused(published: Path) -> None:
    plain, tiles = teacher(published / "sam_plain.pth"), torch.randn(1, 3, 256, 256)
    taken = {"sam_plain.pth", "sam_hf.safetensors", *TAKEN}
    assert {path.name for path in published.iterdir()} == {*taken, *REFUSED}
    for name in taken:
        other = teacher(published / name)
        hashes = {hash_weights(each.network.state_dict()) for each in (other, plain)}
        assert len(hashes) == 1, name
        assert torch.equal(
            other.encode(tiles, ["stride8"])["stride8"], plain.encode(tiles, ["stride8"])["stride8"]
        ), name
    for name, says in REFUSED.items():
        with pytest.raises(CheckpointError, match=says) as refused:
            read_weights(published / name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda sam: {**behind("predictor.model.", sam), "model.backbone.norm1.bias": torch.ones(2)},
        lambda sam: {"module": {f"module.{n.removeprefix(PREFIX)}": t for n, t in sam.items()}},
    ],
)
def test_the_encoder_is_found_in_any_wrapper(
    wrap: Callable[[Table], dict[str, Any]], tmp_path: Path
) -> None:
    encoder = draw_encoder(TINY, 1).state_dict()
    torch.save(wrap(behind(PREFIX, encoder)), tmp_path / "sam.pth")
    read = read_weights(tmp_path / "sam.pth")
    assert read.keys() == encoder.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in encoder.items())


def test_names_of_transformers_are_those_of_its_sam(tmp_path: Path) -> None:
    config = SamVisionConfig(
        hidden_size=TINY.width,
        output_channels=TINY.channels,
        num_hidden_layers=TINY.depth,
        num_attention_heads=TINY.heads,
        image_size=TINY.side_px,
        patch_size=TINY.patch_px,
        window_size=TINY.window_tok,
        global_attn_indexes=list(TINY.global_blocks),
        mlp_dim=int(TINY.width * TINY.mlp_ratio),
        layer_norm_eps=1e-6,
    )
    theirs = SamVisionModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    tiles = torch.randn(1, 3, TINY.side_px, TINY.side_px)
    with torch.no_grad():
        wanted = theirs(tiles).last_hidden_state
    torch.testing.assert_close(
        teacher(tmp_path / "model.safetensors").encode(tiles, ["stride8"])["stride8"], wanted
    )


def segformer(seed: int, prefix: str = "segformer.") -> dict[str, Tensor]:
    """A backbone under the names of transformers' files, beside a decode head."""
    ours = behind("backbone.", backbone(seed).state_dict())
    theirs = {prefix + n.removeprefix("segformer."): t for n, t in to_segformer(ours).items()}
    return {**theirs, "decode_head.classifier.weight": torch.ones(3, 8, 1, 1)}


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (lambda: behind("backbone.", official_mit(1)), ".safetensors"),
        (
            lambda: {
                "state_dict": {
                    **behind("module.model.backbone.", official_mit(1)),
                    **behind("module.ema_model.backbone.", official_mit(2)),
                    **behind("module.imnet_model.backbone.", official_mit(3)),
                }
            },
            ".pth",
        ),
        (partial(segformer, 1), ".safetensors"),
        (partial(segformer, 1, ""), ".bin"),
    ],
)
def test_a_backbone_is_found_in_any_wrapper(
    content: Callable[[], dict[str, Any]], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"mit{suffix}"
    save_file(content(), path) if suffix == ".safetensors" else torch.save(content(), path)
    ours = backbone(seed=2)
    load_backbone(ours, str(path))
    assert_equal(ours, backbone(seed=1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            lambda: {**behind("one.backbone.", official_mit(1)), **behind("b.", official_mit(2))},
            r"holds several backbones \(b\., one\.backbone\.\)",
        ),
        (
            lambda: {n: t for n, t in segformer(1).items() if not n.endswith("self.key.weight")},
            r"4 missing: backbone\.block1\.0\.attn\.kv\.weight",
        ),
        (lambda: behind("ema_model.backbone.", official_mit(1)), "missing: backbone"),
    ],
)
def test_a_backbone_that_is_not_clear_is_refused(
    content: Callable[[], dict[str, Any]], says: str, tmp_path: Path
) -> None:
    torch.save(content(), tmp_path / "mit.pth")
    with pytest.raises(CheckpointError, match=says):
        load_backbone(backbone(seed=2), str(tmp_path / "mit.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "may well be sound .Permission den"),
        (
            RuntimeError("[enforce fail] can't allocate memory: you tried"),
            "may well be sound .*can't allocate memory",
        ),
    ],
)
def test_a_file_that_could_not_be_looked_at_is_not_called_damaged(
    suffix: str, fault: Exception, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"sam{suffix}"
    torch.save(draw_encoder(TINY, 1).state_dict(), path)

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr("torch.load", fail)
    monkeypatch.setattr("safetensors.torch.load", fail)
    with pytest.raises(CheckpointError, match=says) as refused:
        read_weights(path)
    assert "damaged" not in str(refused.value)
