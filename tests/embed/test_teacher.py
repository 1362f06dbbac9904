"""Weights are those of the encoder, or a line says why not."""

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

TINY = ARCHITECTURES["tiny"]
PATCH = f"{PREFIX}patch_embed.proj.weight"


def without(name: str, table: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in table.items() if key != name}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("sam.pth", lambda sam: {"epoch": 3}, r"no table of tensors \(epoch\)"),
        (
            "student.pth",
            lambda sam: {f"{part}.bias": torch.ones(2) for part in ("backbone.norm1", "head")},
            r"0 image encoders of SAM \(backbone\.\*, head\.\*\); give",
        ),
        (
            "two.pth",
            lambda sam: {f"{net}.{key}": sam[key] for net in ("model", "ema") for key in sam},
            r"2 image encoders of SAM \(ema\.image_encoder\.\*, model\.image_encoder\.\*\)",
        ),
        (
            "large.pth",
            lambda sam: sam | {PATCH: torch.ones(1024, 3, 16, 16)},
            r"encoder tiny \(1 of other shape: .* or change embed\.teacher\.architecture",
        ),
        (
            "short.pth",
            lambda sam: without(f"{PREFIX}neck.0.weight", sam),
            "1 missing: neck.0.weight",
        ),
        ("sam_vit_b_01ec64.pth", lambda sam: sam, "the official file's with 01ec64"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(
    file: str, change: Callable[[dict[str, Tensor]], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    encoder = draw_encoder(TINY, 1).state_dict()
    torch.save(change({PREFIX + key: value for key, value in encoder.items()}), tmp_path / file)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_encoder(TINY, tmp_path / file)
    assert "\n" not in str(caught.value)


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
        found, wanted = (e.encode(tiles[:count], ["stride8"])["stride8"] for e in (compiled, plain))
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_too_large_a_batch_is_told_in_one_line(
    embed_config: EmbedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(tiles: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    teacher = embed_config.load_encoder()
    monkeypatch.setattr(teacher.network, "forward", exhaust)
    with pytest.raises(ConfigError, match=r"2 tiles of 256 px .* lower embed\.batch_tiles"):
        teacher.encode(torch.zeros(2, 3, 256, 256), ["stride8"])
