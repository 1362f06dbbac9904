import numpy as np
import pytest
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from stages.train.adaptation.augment import (
    StrongDraw,
    augment,
    blur,
    blur_side,
    draw_strong,
    normalise,
)
from stages.train.config import SelfTrainingConfig

SETTINGS = SelfTrainingConfig.model_construct(
    jitter_probability=0.8, jitter_strength=0.2, blur_probability=0.5
)


def draws(number: int, batch: int, per_image: bool) -> list[list[StrongDraw]]:
    rng = np.random.default_rng(0)
    return [
        draw_strong(
            rng,
            batch,
            SETTINGS,
            per_image=per_image,
        )
        for _ in range(number)
    ]


def random_images(batch: int, side_px: int = 32) -> Tensor:
    return normalise(
        torch.rand(batch, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    )


@pytest.mark.parametrize("per_image", [True, False])
def test_draws_of_some_images_treat_them_as_those_of_all_do(per_image: bool) -> None:
    images, rows = random_images(4), slice(2, 4)
    for each in draws(8, 4, per_image):
        some = each[rows] if per_image else [draw.of(rows) for draw in each]
        assert torch.equal(augment(images[rows], some), augment(images, each)[rows])


@pytest.mark.parametrize("sigma_px", [0.15, 0.6, 1.15])
def test_two_short_blurs_are_the_one_of_51_by_51_taps(sigma_px: float) -> None:
    image = torch.randn(1, 3, 512, 64, generator=torch.Generator().manual_seed(0))
    kernel_px, sigmas_px = (blur_side(512), blur_side(64)), (sigma_px, sigma_px)
    official = gaussian_blur2d(image, kernel_px, sigmas_px, "reflect", separable=False)
    torch.testing.assert_close(blur(image, sigma_px), official, atol=3e-6, rtol=0)
