"""What the store promises: its tokens are SAM's tokens of the crop at that place.

The expected numbers are computed from the picture with the bare encoder, by the formulas of the
architecture, not with the package's own tiling, scaling or blending.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from stages.embed.config import EmbedConfig
from stages.embed.teachers.sam_encoder import PREFIX, draw_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES
from store.read import FeatureReader
from tests.embed.world import World, changed

SIDE_PX, TILE_TOK = 256, 16  # of the tiny teacher
RAW_PX, WORKING_PX = (500, 630), (512, 640)
IMAGE = "source/train/street"

# Where tiles must begin (tokens, rows and columns) for 12.5 %, that is 2 of 16 tokens, of overlap.
ORIGINS: dict[str, tuple[list[int], list[int]]] = {
    "stride8": ([0, 12, 24, 36, 48], [0, 13, 26, 38, 51, 64]),  # 64 x 80 tokens
    "stride16": ([0, 8, 16], [0, 12, 24]),  # 32 x 40
    "stride32": ([0], [0, 4]),  # 16 x 20
}


class Street:
    """One embedded picture, and the encoder that must have made its tokens."""

    def __init__(self, folder: Path, config: EmbedConfig) -> None:
        self.encoder = positional_encoder()
        weights = folder / "teacher.pth"
        torch.save({PREFIX + k: v for k, v in self.encoder.state_dict().items()}, weights)
        levels = tuple(ORIGINS)
        world = World(folder, changed(config, weights=str(weights), levels=levels))
        picture = world.add("street", RAW_PX, seed=1)
        mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
        self.canvas = np.zeros((3, *WORKING_PX))
        self.canvas[:, : RAW_PX[0], : RAW_PX[1]] = ((picture - mean) / std).transpose(2, 0, 1)
        self.reader = FeatureReader(world.run().path)

    def stored(self, level: str, y: int, x: int, h: int, w: int) -> NDArray[np.float32]:
        return self.reader.window(IMAGE, level, y, x, h, w).astype(np.float32)

    def online(self, level: str, y: int, x: int) -> NDArray[np.float32]:
        """(C, 16, 16): SAM run on the crop whose first token is (y, x)."""
        stride = int(level.removeprefix("stride"))
        side = SIDE_PX * stride // 16
        crop = self.canvas[:, y * stride : y * stride + side, x * stride : x * stride + side]
        assert crop.shape == (3, side, side)
        scaled = F.interpolate(
            torch.from_numpy(crop[None].astype(np.float32)),
            scale_factor=16 / stride,
            mode="bilinear",
            align_corners=False,
            antialias=stride > 16,
        )
        with torch.inference_mode():
            tokens: NDArray[np.float32] = self.encoder(scaled)[0].numpy()
        return tokens


def positional_encoder() -> nn.Module:
    """A tiny encoder whose tokens depend on where they are, as a trained one's do."""
    encoder = draw_encoder(ARCHITECTURES["tiny"], 7).eval()
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for name, value in encoder.named_parameters():
            if "pos" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return encoder


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory, embed_config: EmbedConfig) -> Street:
    return Street(tmp_path_factory.mktemp("street"), embed_config)


def assert_stored(stored: NDArray[np.float32], exact: NDArray[np.float32]) -> None:
    """Demand equality up to float16's rounding and float32's noise."""
    np.testing.assert_allclose(stored, exact, rtol=2**-11, atol=2e-5)


def share(position: int, of: int, origins: list[int]) -> float:
    """Weight of one tile at one token along an axis: linear ramps over the overlaps."""
    covering = [o for o in origins if o <= position < o + TILE_TOK]
    if of not in covering:
        return 0.0
    if len(covering) == 1:
        return 1.0
    first, second = covering  # no place of this picture sees three
    ramp = (position - second + 0.5) / (first + TILE_TOK - second)
    return ramp if of == second else 1 - ramp


@pytest.mark.parametrize("level", ORIGINS)
def test_every_token_is_the_blend_of_its_tiles(level: str, street: Street) -> None:
    rows, columns = ORIGINS[level]
    h, w = rows[-1] + TILE_TOK, columns[-1] + TILE_TOK
    expected = np.zeros((64, h, w))
    for y, x in itertools.product(rows, columns):
        tokens = street.online(level, y, x)
        for i, j in itertools.product(range(TILE_TOK), repeat=2):
            weight = share(y + i, y, rows) * share(x + j, x, columns)
            expected[:, y + i, x + j] += weight * tokens[:, i, j]
    assert_stored(street.stored(level, 0, 0, h, w), expected.astype(np.float32))


def test_a_picture_smaller_than_a_tile_is_padded_after_scaling(
    tmp_path: Path, embed_config: EmbedConfig
) -> None:
    world = World(tmp_path, embed_config)
    picture = world.add("small", (64, 96), seed=4)  # a tile of stride 8 is 128 px
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    pixels = ((torch.from_numpy(picture) - mean) / std).permute(2, 0, 1)[None]
    scaled = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
    padded = torch.zeros(1, 3, SIDE_PX, SIDE_PX)
    padded[:, :, :128, :192] = scaled
    with torch.inference_mode():
        tokens = draw_encoder(ARCHITECTURES["tiny"], 3).eval()(padded)[0]
    reader = FeatureReader(world.run().path)
    stored = reader.window("source/train/small", "stride8", 0, 0, 8, 12).astype(np.float32)
    assert_stored(stored, tokens[:, :8, :12].numpy())
