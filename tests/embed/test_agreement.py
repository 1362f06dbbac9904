"""Features of a crop that the teacher sees alone, and how two sets of features compare."""

import numpy as np
import pytest

from pipeline.online import Agreement, encode_crop, token_errors
from stages.embed.config import EmbedConfig
from stages.embed.teachers.teacher import Encoder
from stages.prepare.geometry import Size
from stages.prepare.pixels import normalised_window
from store.read import FeatureReader
from tests.embed.world import World


@pytest.fixture(scope="module")
def teacher(embed_config: EmbedConfig) -> Encoder:
    return embed_config.load_encoder()


@pytest.mark.parametrize("level", ["stride8", "stride16", "stride32"])
@pytest.mark.parametrize("size_px", [(64, 96), (128, 128), (160, 288)])
def test_a_crop_that_is_the_whole_image_has_the_features_that_stage_one_stores(
    world: World, teacher: Encoder, level: str, size_px: Size
) -> None:
    """Smaller than a tile, as large as one and larger: the same numbers, rounded to float16."""
    world.records.clear()
    crop = normalised_window(world.add("whole", size_px, seed=1), 0, 0, *size_px)
    reader = FeatureReader(world.run(levels=(level,)).domains["source"].path)
    stored = reader.window(
        "source/train/whole", level, 0, 0, *reader.size_tok("source/train/whole", level)
    )
    online = encode_crop(crop, level, config=world.config, encoder=teacher)
    np.testing.assert_allclose(online, stored, rtol=1e-3, atol=1e-4)


def test_cosine_is_the_mean_over_tokens_and_error_is_of_all_numbers() -> None:
    wanted = np.zeros((2, 1, 4), np.float32)
    wanted[0] = 1.0  # four tokens (1, 0)
    served = wanted.copy()
    served[:, 0, 3] = (0.0, 1.0)  # one is at a right angle
    pairs = [token_errors(served, wanted), token_errors(wanted, wanted)]
    agreement = Agreement.of("crop", "stride8", pairs)
    assert agreement.crops == 2
    assert agreement.cosine == pytest.approx(7 / 8)
    assert agreement.relative_error == pytest.approx(np.sqrt(2 / 8))
    assert agreement.cosine_low < 1
    zeros = np.zeros_like(wanted)
    assert Agreement.of("crop", "stride8", [token_errors(zeros, wanted)]).cosine == 0
