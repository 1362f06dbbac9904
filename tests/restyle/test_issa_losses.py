import pytest
import torch
from torch import Tensor

from stages.efficientnet_lite import untrained
from stages.restyle.issa.encoder import Encoded
from stages.restyle.issa.losses import (
    EncoderLoss,
    Perceptual,
    adversarial,
    cooled,
    feature_matching,
    gradient_penalty,
    hinge,
    magnitude,
    pixel_loss,
)


def scores(*values: float) -> Tensor:
    return torch.tensor(values)


def test_pixels_that_are_not_kept_count_in_the_mean_alone() -> None:
    kept = torch.tensor([1, 0, 0, 1], dtype=torch.bool).view(1, 1, 2, 2)
    loss = pixel_loss(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 3.0), kept)
    assert loss.item() == pytest.approx(4.5)


def test_hinge_and_adversarial_loss_are_means_over_scales() -> None:
    real = [[scores(2.0, 0.0)], [scores(0.5)]]  # 0.5 and 0.5
    made = [[scores(-2.0, 0.5)], [scores(0.0)]]  # 0.75 and 1
    assert hinge(real, made).item() == pytest.approx((1.25 + 1.5) / 2)
    assert adversarial(made).item() == pytest.approx((0.75 + 0.0) / 2)


def test_features_are_matched_before_the_scores_summed_over_layers() -> None:
    real = [[scores(1.0, 3.0), scores(2.0), scores(9.0)], [scores(0.0), scores(1.0), scores(9.0)]]
    made = [[scores(0.0, 0.0), scores(5.0), scores(0.0)], [scores(1.0), scores(1.0), scores(0.0)]]
    assert feature_matching(real, made).item() == pytest.approx(((2 + 3) + (1 + 0)) / 2)
    watched = scores(1.0).requires_grad_()
    moved = scores(2.0).requires_grad_()
    feature_matching([[watched, watched]], [[moved, moved]]).backward()  # type: ignore[no-untyped-call]
    assert watched.grad is None
    assert moved.grad is not None


def test_the_size_of_noise_is_its_mean_absolute_value() -> None:
    assert magnitude((scores(1.0, -3.0), scores(0.0, 2.0))).item() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("seen", "rest"), [(0, 1.0), (200_000, 1.0), (350_000, 0.5), (500_000, 0.0), (900_000, 0.0)]
)
def test_the_term_of_latents_cools_between_two_numbers_of_images(seen: int, rest: float) -> None:
    assert cooled(seen, (200_000, 500_000)) == pytest.approx(rest)


def test_the_penalty_is_the_squared_gradient_of_a_linear_score() -> None:
    slope = torch.arange(12.0).view(1, 3, 2, 2)
    image = torch.randn(2, 3, 2, 2, requires_grad=True)
    found = gradient_penalty((image * slope).sum((1, 2, 3)), image)
    assert found.item() == pytest.approx(slope.square().sum().item())


def test_an_image_has_no_perceptual_distance_to_itself() -> None:
    distance = Perceptual(untrained("lite0", 0))
    one, other = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert distance(one, one).tolist() == [0, 0]
    assert distance(one, other).min() > 0
    assert distance(one, other).max() <= 4


def test_the_terms_of_the_encoder_have_the_published_weights() -> None:
    def generate(w: Tensor, maps: tuple[Tensor, Tensor]) -> Tensor:
        level = w.mean((1, 2)) + sum(each.mean((1, 2, 3)) for each in maps)
        return level[:, None, None, None].expand(-1, 3, 16, 16)

    loss = EncoderLoss(
        generate,
        lambda x: [[2 * x, x.mean((1, 2, 3))]],
        lambda a, b: (a - b).abs().mean((1, 2, 3)),
        (0, 100),
    )
    real, made = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    w = torch.tensor([0.5, 0.25]).view(2, 1, 1)
    maps = torch.ones(2, 1, 4, 4), -torch.ones(2, 1, 4, 4)
    kept = torch.ones(2, 1, 1, 1, dtype=torch.bool)
    half = torch.tensor([True, False]).view(2, 1, 1, 1)  # the second map of the generated image
    terms, images = loss(
        torch.cat([real, made]),
        Encoded(w, maps),
        torch.full((1, 1, 1), 0.75),
        masks=(kept, half),
        noise=(torch.full((2, 1, 4, 4), 7.0), torch.full((2, 1, 4, 4), 5.0)),
        seen=50,
    )
    assert images[:, 0, 0, 0].tolist() == [0.5 + 1 - 1, 0.25 + 1 + 5]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "pixels": 0.5**2 / 2,
            "perceptual": 10 * (0.5 + 6.25) / 2,
            "adversarial": 0.1 * -0.5,
            "features": 0.2 * 1,
            "noise": 0.1 * 1,
            "latent": 0.1 * 0.5**2 * 0.5,
        }
    )
