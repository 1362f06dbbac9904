import numpy as np
import pytest
import torch
from torch import Tensor

from stages.prepare.labels import IGNORE
from stages.train.adaptation.mixing import ClassPool, class_mask, draw_classes, mix, mix_features


def labels_with(*classes: list[int]) -> Tensor:
    """One image for each list, with these classes in equal columns."""
    return torch.stack([torch.tensor(ids).repeat_interleave(60 // len(ids)) for ids in classes])[
        :, None, :
    ]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_half_of_the_classes_are_drawn_rounding_up(number: int) -> None:
    [classes] = draw_classes(np.random.default_rng(0), labels_with(list(range(number))), "batch")
    assert len(classes) == len(set(classes)) == -(-number // 2)
    assert set(classes) <= set(range(number))


def test_official_pool_offers_the_classes_of_the_other_images_and_ignore() -> None:
    labels = labels_with([0, 1], [2, IGNORE])
    rng = np.random.default_rng(0)
    drawn = [draw_classes(rng, labels, "batch") for _ in range(200)]
    for image in range(2):
        assert {c for classes in drawn for c in classes[image]} == {0, 1, 2, IGNORE}


def test_pool_of_the_image_offers_its_own_classes_only() -> None:
    labels = labels_with([0, 1, 5], [2, IGNORE])
    rng = np.random.default_rng(0)
    drawn = [draw_classes(rng, labels, "image") for _ in range(200)]
    assert {c for classes in drawn for c in classes[0]} == {0, 1, 5}
    assert {c for classes in drawn for c in classes[1]} == {2, IGNORE}
    assert {(len(first), len(second)) for first, second in drawn} == {(2, 1)}


def test_images_draw_independently_and_classes_equally_often() -> None:
    labels = labels_with([0, 1, 2, 3], [0, 1, 2, 3])
    rng = np.random.default_rng(0)
    chosen = np.zeros((4000, 2, 4))
    for row in chosen:
        for image, classes in enumerate(draw_classes(rng, labels, "batch")):
            row[image, classes] = 1
    assert np.allclose(chosen.mean(axis=0), 0.5, atol=0.03)
    together = np.einsum("nc,nd->cd", chosen[:, 0], chosen[:, 1]) / len(chosen)
    assert np.allclose(together, 0.25, atol=0.03)


@pytest.mark.parametrize("pool", ["batch", "image"])
def test_equal_generators_draw_equal_classes(pool: ClassPool) -> None:
    labels = labels_with(list(range(10)), list(range(5, 15)))
    first, second, other = (
        draw_classes(np.random.default_rng(seed), labels, pool) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_masks_select_each_images_own_classes() -> None:
    labels = labels_with([0, 1, IGNORE], [0, 1, 2])
    mask = class_mask(labels, [[0, IGNORE], [2, 7]])  # no pixel is of class 7
    assert mask.shape == (2, 1, 1, 60)
    assert torch.equal(mask[0, 0], (labels[0] == 0) | (labels[0] == IGNORE))
    assert torch.equal(mask[1, 0], labels[1] == 2)


def test_mixed_weights_are_one_on_source_and_the_confidence_elsewhere() -> None:
    mask = class_mask(labels_with([0, 1]), [[1]])
    weight = mix(mask, 1.0, torch.full((1, 1, 60), 0.3))
    assert torch.equal(weight, torch.tensor([0.3] * 30 + [1.0] * 30).view(1, 1, 60))


def test_values_that_were_not_chosen_leave_no_trace() -> None:
    mask = torch.tensor([True, False]).view(1, 1, 1, 2)
    broken, sound = torch.full((1, 3, 1, 2), torch.nan), torch.ones(1, 3, 1, 2)
    broken[..., 0] = 2
    assert torch.equal(mix(mask, broken, sound), torch.tensor([2.0, 1.0]).expand(1, 3, 1, 2))


def test_each_token_is_mixed_by_its_share_of_source_pixels() -> None:
    mask = torch.zeros(1, 1, 32, 64, dtype=torch.bool)
    mask[..., :32, :32] = True  # four tokens of stride 16, one of stride 32
    mask[..., :4, 48:56] = True  # 32 of the 256 pixels of a token of stride 16
    source = {"stride16": torch.full((1, 5, 2, 4), 8.0), "stride32": torch.full((1, 2, 1, 2), 64.0)}
    target = {level: torch.zeros_like(features) for level, features in source.items()}
    mixed = mix_features(mask, source, target)
    expected = torch.tensor([[8.0, 8.0, 0.0, 1.0], [8.0, 8.0, 0.0, 0.0]])
    assert torch.equal(mixed["stride16"], expected.expand(1, 5, 2, 4))
    assert torch.equal(mixed["stride32"], torch.tensor([64.0, 2.0]).expand(1, 2, 1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_tokens_of_one_side_keep_their_features_to_the_bit(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    source = {"stride8": torch.randn(2, 4, 2, 2, generator=random).to(dtype)}
    target = {"stride8": torch.randn(2, 4, 2, 2, generator=random).to(dtype)}
    mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    mask[0] = True
    mixed = mix_features(mask, source, target)["stride8"]
    assert mixed.dtype == dtype
    assert torch.equal(mixed[0], source["stride8"][0])
    assert torch.equal(mixed[1], target["stride8"][1])


def test_features_that_do_not_divide_the_mask_are_refused() -> None:
    features = {"stride8": torch.zeros(1, 1, 3, 4)}
    with pytest.raises(ValueError, match="32x32 px has no whole cells on 3x4 tokens"):
        mix_features(torch.zeros(1, 1, 32, 32, dtype=torch.bool), features, features)
