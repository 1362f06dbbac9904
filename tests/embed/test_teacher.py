"""Weights come from where they should, or a line says why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.embed.config import EmbedConfig
from stages.embed.teachers.sam_encoder import PREFIX, draw_encoder, load_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from store.errors import CheckpointError, ConfigError
from tests.embed.world import changed

TINY = ARCHITECTURES["tiny"]


def official_layout() -> dict[str, Tensor]:
    """A checkpoint as the official files are: the encoder beside other parts."""
    encoder = draw_encoder(TINY, 1).state_dict()
    others = {"mask_decoder.iou_token.weight": torch.ones(1, 256)}
    return {PREFIX + key: value for key, value in encoder.items()} | others


def test_a_checkpoint_gives_its_weights(
    tmp_path: Path, embed_config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(official_layout(), tmp_path / "tiny.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = changed(embed_config, weights="~/tiny.pth")
    network, drawn = config.load_encoder().network, draw_encoder(TINY, 1).state_dict()
    assert config.teacher.trained
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    for key, value in network.state_dict().items():
        assert torch.equal(value, drawn[key]), key


def test_float16_on_the_cpu_is_refused_in_one_line(embed_config: EmbedConfig) -> None:
    with pytest.raises(ConfigError, match=r"float16 needs a GPU; .* bfloat16 or float32$"):
        embed_config.model_copy(update={"precision": "float16"}).load_encoder()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own
def test_a_compiled_encoder_computes_the_same(embed_config: EmbedConfig) -> None:
    tiles = torch.randn(3, 3, 256, 256)
    compiled = embed_config.model_copy(update={"compile": True}).load_encoder()
    plain = embed_config.load_encoder()
    for count in (3, 1, 2):  # the last batch of a shard may be shorter
        torch.testing.assert_close(
            compiled.encode(tiles[:count], ["stride8"])["stride8"],
            plain.encode(tiles[:count], ["stride8"])["stride8"],
            rtol=0,
            atol=2e-5,
        )


def test_too_large_a_batch_is_told_in_one_line(
    embed_config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(tiles: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    teacher = embed_config.load_encoder()
    monkeypatch.setattr(teacher.network, "forward", exhaust)
    with pytest.raises(ConfigError, match=r"2 tiles of 256 px .* lower embed\.batch_tiles"):
        teacher.encode(torch.zeros(2, 3, 256, 256), ["stride8"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, r"no table of tensors \(epoch\)"),
        (
            {"backbone.norm1.bias": torch.ones(2), "head.bias": torch.ones(2)},
            r"holds no image encoder of SAM, but backbone\.\*, head\.\*; give",
        ),
        (
            {f"{name}.image_encoder.pos_embed": torch.ones(2) for name in ("model", "ema")},
            r"several image encoders of SAM \(ema\.image_encoder\.\*, model\.image_encoder\.\*\)",
        ),
    ],
)
def test_a_file_without_an_encoder_is_refused(
    content: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "student.pth"
    torch.save(content, path)
    assert_refused(path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.ones(1024, 3, 16, 16)}),
            r"encoder tiny \(1 of other shape: .* or change embed\.teacher\.architecture",
        ),
        (lambda s: s.pop("neck.0.weight"), "1 missing: neck.0.weight"),
    ],
)
def test_every_tensor_must_fit(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    encoder = dict(draw_encoder(TINY, 1).state_dict())
    change(encoder)
    torch.save({PREFIX + key: value for key, value in encoder.items()}, path)
    assert_refused(path, message)


def test_an_official_name_promises_the_official_content(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(official_layout(), path)
    assert_refused(path, "the official file's with 01ec64")


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(TINY, path)
    assert "\n" not in str(caught.value)
