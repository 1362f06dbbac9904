"""The replaced attention computes what the official one does, whatever it is made to run on."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from stages.embed.teachers import sam_encoder
from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.sam_encoder import draw_encoder, fuse_attention
from stages.embed.teachers.sam_sizes import ARCHITECTURES, Architecture
from stages.embed.teachers.teacher import Precision

TINY = ARCHITECTURES["tiny"]
ODD = replace(TINY, name="odd", side_px=176, width=80, heads=5, window_tok=3, global_blocks=(2,))
SMALL = [pytest.param(TINY, id="tiny"), pytest.param(ODD, id="odd")]


def positional(architecture: Architecture) -> nn.Module:
    """An official encoder whose positions matter, as after training; they are drawn as zeros."""
    encoder = draw_encoder(architecture, 1).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(2)
    for name, value in encoder.named_parameters():
        if "pos" in name:
            value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return encoder


def tiles_for(architecture: Architecture) -> Tensor:
    side = architecture.side_px
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))


def official(encoder: nn.Module, tiles: Tensor) -> Tensor:
    with torch.inference_mode():
        tokens: Tensor = encoder(tiles)
    return tokens


def ours(
    encoder: nn.Module, tiles: Tensor, precision: Precision = "float32", device: str = "cpu"
) -> Tensor:
    fused = fuse_attention(copy.deepcopy(encoder))
    teacher = Encoder(fused, tiles.shape[-1], torch.device(device), precision)
    return teacher.encode(tiles, ["stride8"])["stride8"]


@pytest.mark.parametrize("heads", ["all", 1, 7, "as on a GPU"])
@pytest.mark.parametrize("architecture", SMALL)
def test_tokens_are_those_of_the_official_forward_pass(
    architecture: Architecture, heads: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(heads, int):  # at a time, in a smaller buffer for the bias
        tokens = (architecture.side_px // architecture.patch_px) ** 2
        monkeypatch.setattr(sam_encoder, "BIAS_VALUES", heads * tokens**2)
    elif heads == "as on a GPU":
        monkeypatch.setattr(sam_encoder, "_attend_with_bias", sam_encoder._attend_with_longer_keys)
    encoder, tiles = positional(architecture), tiles_for(architecture)
    reference = official(encoder, tiles)
    torch.testing.assert_close(ours(encoder, tiles), reference, rtol=0, atol=2e-5)
    if not isinstance(heads, int):
        least = 0.9999 if heads == "all" else 0.999
        assert_close_tokens(ours(encoder, tiles, "bfloat16"), reference, least)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_agrees_with_the_cpu(precision: Precision) -> None:
    encoder, tiles = positional(TINY), tiles_for(TINY)
    found = ours(encoder, tiles, precision, "cuda")
    assert_close_tokens(found, official(encoder, tiles), 0.9999)


def assert_close_tokens(tokens: Tensor, reference: Tensor, least: float) -> None:
    assert torch.cosine_similarity(tokens, reference, dim=1).min() >= least
