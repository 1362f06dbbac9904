from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from stages.efficientnet_lite import untrained
from stages.restyle.issa.encoder import Encoded, Encoder, draw_mask, kept_pixels, masked
from stages.restyle.issa.fit import (
    EncoderFit,
    Fit,
    GeneratorFit,
    annealed,
    as_input,
    as_pixels,
    fit,
    squeezed,
)
from stages.restyle.issa.generator import Discriminator, Generator, StyledConv
from stages.restyle.issa.losses import (
    PatchDiscriminator,
    Perceptual,
    cooled,
    encoder_terms,
    feature_matching,
    gradient_penalty,
    hinge,
)
from stages.restyle.issa.swap import opened
from stages.restyle.mixers.issa import ENCODER, Issa
from store.errors import CheckpointError, TrainingError


def config(folder: Path, **changes: object) -> Issa:
    values: dict[str, object] = {
        **{"kind": "issa", "folder": str(folder), "side_px": 32, "channels": 4, "latent": 4},
        **{"mask": 0.25, "batch_size": 2, "generator_steps": 8, "generator_lr": 0.0025},
        **{"encoder_steps": 8, "encoder_lr": 0.001, "checkpoint_every": 4, "seed": 0},
        "device": "cpu",
    }
    return Issa.model_validate({**values, **changes})


def images(side: int = 32) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8, generator=rng)


def training(kind: str, wanted: Issa) -> Fit:
    torch.manual_seed(1)
    if kind == "generator":
        return GeneratorFit(wanted, images())
    generator = Generator(wanted.side_px, wanted.channels, wanted.latent)
    return EncoderFit(wanted, images(), generator, Perceptual(untrained("lite0", 0)))


def trained(folder: Path) -> Issa:
    wanted = config(folder, encoder_steps=1)
    fit(training("encoder", wanted), folder / ENCODER, header=about(wanted), progress=silent)
    return wanted


def about(wanted: Issa) -> dict[str, object]:
    return {"training": wanted.training, "images": "some"}


def silent(*_: object) -> None:
    """Say nothing."""


def picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("side", "latents"), [(32, 8), (128, 12)])
def test_images_latents_and_noise_maps_have_the_published_numbers(side: int, latents: int) -> None:
    generator = Generator(side, 8, 4)
    w, maps = Encoder(generator, torch.zeros(4), 8)(torch.zeros(2, 3, side, side))
    assert w.shape == (2, latents, 4)
    assert [each.shape for each in maps] == [(2, generator.map_channels, side // 4, side // 4)] * 2
    made = generator(w, maps=maps)
    assert made.shape == (2, 3, side, side)
    assert Discriminator(side, 8)(made).shape == (2,)
    assert [len(scale) for scale in PatchDiscriminator(8)(made)] == [5] * 3


def test_a_styled_convolution_scales_and_normalises_its_weights_for_each_image() -> None:
    torch.manual_seed(0)
    layer, x, w = StyledConv(4, 6, 5, 8), torch.randn(2, 4, 8, 8), torch.randn(2, 5)
    found = layer(x, w, torch.zeros(()))
    for each in range(2):  # equations 1 and 3 of StyleGAN2, filter by filter
        weight = layer.conv.scaled() * layer.scales(w[each])[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        wanted = F.leaky_relu(F.conv2d(x[each : each + 1], weight, padding=1), 0.2) * 2**0.5
        torch.testing.assert_close(found[each : each + 1], wanted)


def test_noise_maps_replace_the_noise_of_one_block_whatever_its_strength() -> None:
    torch.manual_seed(0)
    generator = Generator(32, 4, 4)
    w, maps = torch.randn(1, 8, 4), (torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8))
    before, constant = generator(w, maps=maps), generator(w)
    for conv in generator.convs:
        assert isinstance(conv, StyledConv)
        if conv.noise.shape[-1] == 8:
            torch.nn.init.constant_(conv.strength, 5.0)
    assert torch.equal(generator(w, maps=maps), before)
    assert not torch.equal(generator(w), constant)
    assert not torch.equal(generator(w, maps=(maps[1], maps[0])), before)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1024), (0.25, 768), (1.0, 0)])
def test_a_mask_keeps_as_many_patches_in_every_map(share: float, kept: int) -> None:
    masks = draw_mask(3, 128, share, torch.Generator().manual_seed(0))
    assert masks.shape == (3, 1, 32, 32)
    assert masks.sum((1, 2, 3)).tolist() == [kept] * 3
    assert kept in (0, 1024) or not torch.equal(masks[0], masks[1])


def test_masked_patches_hold_noise_and_pixels_count_where_both_maps_are_kept() -> None:
    one = torch.tensor([[[[True, False], [True, True]]]])
    other = torch.tensor([[[[True, True], [False, True]]]])
    found = masked(torch.ones(1, 2, 8, 8), one, torch.zeros(1, 2, 8, 8))
    assert found.sum() == 2 * 3 * 16
    assert found[:, :, :4, 4:].eq(0).all()
    wanted = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    wanted[..., :16, :16] = wanted[..., 16:, 16:] = True
    assert torch.equal(kept_pixels((one, other)), wanted)


def test_the_learning_rate_is_annealed_and_the_term_of_latents_cools() -> None:
    shares = (0, 100 / 375, 175 / 375, 250 / 375, 1)  # a cosine to a tenth
    assert [annealed(share) for share in shares] == pytest.approx([1, 1, 0.55, 0.1, 0.1])
    assert [cooled(images) for images in (200_000, 350_000, 900_000)] == [1, 0.5, 0]


def scores(*values: float) -> Tensor:
    return torch.tensor(values)


def test_losses_of_scores_are_means_over_scales_of_maps_sums_over_layers() -> None:
    real = [[scores(1.0, 3.0), scores(2.0), scores(2.0, 0.0)], [scores(0.0), scores(1.0)]]
    made = [[scores(0.0, 0.0), scores(5.0), scores(-2.0, 0.5)], [scores(1.0), scores(0.0)]]
    assert hinge(real, made).item() == pytest.approx(((0.5 + 0.75) + (0 + 1)) / 2)
    assert feature_matching(real, made).item() == pytest.approx(((2 + 3) + 1) / 2)
    watched, moved = scores(1.0).requires_grad_(), scores(2.0).requires_grad_()
    feature_matching([[watched, watched]], [[moved, moved]]).backward()  # type: ignore[no-untyped-call]
    assert watched.grad is None
    assert moved.grad is not None


def test_the_penalty_is_the_squared_gradient_of_a_linear_score() -> None:
    slope = torch.arange(12.0).view(1, 3, 2, 2)
    image = torch.randn(2, 3, 2, 2, requires_grad=True)
    found = gradient_penalty((image * slope).sum((1, 2, 3)), image)
    assert found.item() == pytest.approx(slope.square().sum().item())


def test_the_perceptual_distance_is_0_to_4() -> None:
    distance = Perceptual(untrained("lite0", 0))
    one, other = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert distance(one, one).tolist() == [0, 0]
    assert distance(one, other).min() > 0
    assert distance(one, other).max() <= 4


def test_the_terms_of_the_encoder_have_the_published_weights() -> None:
    real, made = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    kept = torch.ones(2, 1, 2, 2, dtype=torch.bool)
    kept[1, :, :, 0] = False  # of the generated image
    terms = encoder_terms(
        torch.cat([real, made]),
        torch.cat([real - 0.5, made + 6]),
        Encoded(torch.tensor([0.5, 0.25]).view(2, 1, 1), (scores(1.0, -3.0), scores(0.0, 2.0))),
        known=torch.full((1, 1, 1), 0.75),
        kept=kept,
        distances=scores(0.5, 6.25),
        found=([[scores(2.0), scores(1.0)]], [[scores(1.0), scores(0.5)]]),
        seen=350_000,
    )
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {
            "pixels": (0.5**2 + 6**2 / 2) / 2,
            "perceptual": 10 * (0.5 + 6.25) / 2,
            "adversarial": 0.1 * -0.5,
            "features": 0.2 * 1,
            "noise": 0.1 * 1.5,
            "latent": 0.1 * 0.5**2 * 0.5,
        }
    )


def state(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    return saved


def equal(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return [*one] == [*other] and all(equal(one[key], other[key]) for key in one)
    return one == other


@pytest.mark.parametrize("kind", ["generator", "encoder"])
def test_a_training_that_was_interrupted_ends_bit_for_bit_as_one_that_was_not(
    kind: str, tmp_path: Path
) -> None:
    wanted, path = config(tmp_path), tmp_path / f"{kind}.pt"
    fit(training(kind, wanted), tmp_path / "whole.pt", header=about(wanted), progress=silent)

    def interrupt(done: int, *_: object) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(training(kind, wanted), path, header=about(wanted), progress=interrupt)
    assert state(path)["step"] == 4
    steps: list[int] = []
    fit(training(kind, wanted), path, header=about(wanted), progress=lambda n, *_: steps.append(n))
    assert steps == [5, 6, 7, 8]
    whole, resumed = state(tmp_path / "whole.pt"), state(path)
    assert equal(whole, resumed)
    assert not equal(whole["averaged"], training(kind, wanted).parts["averaged"].state_dict())


def test_a_loss_that_is_not_finite_is_said_in_one_line(tmp_path: Path) -> None:
    broken = GeneratorFit(config(tmp_path), images())
    torch.nn.init.constant_(broken.generator.constant, float("nan"))
    with pytest.raises(TrainingError, match=r"step 0 of the generator: the loss generator is not"):
        fit(broken, tmp_path / "generator.pt", header={}, progress=silent)
    assert not (tmp_path / "generator.pt").exists()


def test_an_image_in_its_own_style_is_its_reconstruction(tmp_path: Path) -> None:
    mixer = trained(tmp_path)
    content, style = picture(48, 96, 0), picture(33, 20, 1)
    generator, encoder = opened(mixer)
    with torch.inference_mode():
        square = torch.from_numpy(squeezed(content, 32)).permute(2, 0, 1)[None]
        encoded = encoder(as_input(square))
        made = as_pixels(generator(encoded.w, maps=encoded.maps))[0].permute(1, 2, 0)
    wanted = cv2.resize(np.ascontiguousarray(made.numpy()), (96, 48))
    assert np.array_equal(mixer.mix(content, content), wanted)
    mixed = mixer.mix(content, style)
    assert mixed.shape == content.shape
    assert not np.array_equal(mixed, wanted)


def test_an_encoder_that_cannot_mix_says_why(tmp_path: Path) -> None:
    mixer = trained(tmp_path)
    with pytest.raises(CheckpointError, match=r"its settings are not those of restyle.mixer"):
        opened(mixer.model_copy(update={"latent": 8}))
    unfinished = state(tmp_path / ENCODER)
    torch.save({**unfinished, "step": 0}, tmp_path / ENCODER)
    with pytest.raises(CheckpointError, match=r"is not finished; run `ssr restyle-fit`"):
        opened(mixer)
