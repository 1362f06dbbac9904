import numpy as np
import pytest
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor

from stages.train.adaptation.augment import (
    OPERATIONS,
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
def test_four_in_five_batches_are_jittered_and_every_other_is_blurred(per_image: bool) -> None:
    iterations = draws(3000, 2, per_image)
    jittered = [{draw.jitter is not None for draw in iteration} for iteration in iterations]
    blurred = [{draw.sigma_px is not None for draw in iteration} for iteration in iterations]
    assert all(len(gates) == 1 for gates in jittered + blurred)  # all images or none
    assert np.mean([True in gates for gates in jittered]) == pytest.approx(0.8, abs=0.02)
    assert np.mean([True in gates for gates in blurred]) == pytest.approx(0.5, abs=0.02)
    both = np.mean([True in a and True in b for a, b in zip(jittered, blurred, strict=True)])
    assert both == pytest.approx(0.4, abs=0.02)


def test_mixed_images_have_their_own_order_factors_and_blur() -> None:
    iterations = [pair for pair in draws(300, 2, per_image=True) if pair[0].jitter is not None]
    assert {len(pair) for pair in iterations} == {2}
    differ = 0
    for first, second in iterations:
        assert first.jitter is not None
        assert second.jitter is not None
        for operation in OPERATIONS:
            assert first.jitter.factors[operation].shape == (1,)
            assert first.jitter.factors[operation] != second.jitter.factors[operation]
        assert first.sigma_px is None or first.sigma_px != second.sigma_px
        differ += first.jitter.order != second.jitter.order
    assert differ / len(iterations) == pytest.approx(23 / 24, abs=0.05)


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
