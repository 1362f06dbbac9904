import numpy as np
import pytest
import torch

from stages.train.adaptation.masking import block_mask, draw_blocks, mask_images
from store.errors import ConfigError


def test_the_ratio_is_the_share_that_is_hidden() -> None:
    blocks = draw_blocks(np.random.default_rng(0), 100, (512, 512), 32)
    assert block_mask(blocks, (64, 64), 0.7).mean().item() == pytest.approx(0.3, abs=0.01)


def test_a_draw_at_the_ratio_is_hidden() -> None:
    uniform = torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 1, 3)
    assert block_mask(uniform, (1, 3), 0.5).flatten().tolist() == [0, 0, 1]


def test_images_of_a_batch_are_hidden_independently() -> None:
    first, second = draw_blocks(np.random.default_rng(0), 2, (1024, 1024), 32) > 0.5
    assert (first == second).float().mean().item() == pytest.approx(0.5, abs=0.06)


def test_equal_generators_hide_the_same_blocks() -> None:
    first, second, other = (
        draw_blocks(np.random.default_rng(seed), 2, (64, 96), 16) for seed in (1, 1, 2)
    )
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_pixels_are_whole_or_the_mean_colour_block_by_block() -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    masked = mask_images(images, draw_blocks(np.random.default_rng(0), 2, (64, 96), 16), 0.5)
    hidden = (masked == 0).all(dim=1)  # (B, H, W)
    assert torch.equal(masked, images.where(~hidden.unsqueeze(1), 0))
    share = hidden.view(2, 4, 16, 6, 16).float().mean(dim=(2, 4))
    assert set(share.flatten().tolist()) == {0, 1}


def test_a_block_larger_than_the_crop_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"set train\.masking\.block_px to 32 or less") as caught:
        draw_blocks(np.random.default_rng(0), 1, (32, 64), 96)
    assert "\n" not in str(caught.value)
