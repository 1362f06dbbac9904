"""Weight files as people publish them: taken as the plain ones, or refused by what they hold."""

import errno
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import SamVisionConfig, SamVisionModel

from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.sam_encoder import (
    PREFIX,
    draw_encoder,
    load_encoder,
    read_weights,
)
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from stages.student.weights import load_backbone, to_segformer
from store.errors import CheckpointError
from tests.student.test_weights import assert_equal, backbone, official_mit

TINY = ARCHITECTURES["tiny"]

Table = Mapping[str, Tensor]


def behind(prefix: str, table: Table) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in table.items()}


def teacher(path: Path) -> Encoder:
    return Encoder(load_encoder(TINY, path), TINY.side_px, torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("stowaway", "says"),
    [
        (torch.full((TINY.width,), torch.nan), "norm1.weight holds values that are not finite"),
        (
            np.float64(1),
            r"holds other Python objects \(numpy\S*scalar\).* save its state_dict alone",
        ),
    ],
)
def test_what_is_no_finite_tensor_is_refused_in_one_line(
    stowaway: object, says: str, tmp_path: Path
) -> None:
    weights = behind(PREFIX, draw_encoder(TINY, 1).state_dict())
    torch.save({**weights, f"{PREFIX}blocks.0.norm1.weight": stowaway}, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=says) as refused:
        read_weights(tmp_path / "sam.pth")
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
