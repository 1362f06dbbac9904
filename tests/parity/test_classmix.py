"""Case 5: drawing classes, masks and mixing."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stages.train.adaptation.augment import class_mask, draw_classes, mix
from tests.parity.cases import Case, Reference


def subcases(case: Case) -> Iterator[tuple[str, int]]:
    """Name and NumPy seed of each sub-case."""
    assert case.meta["subcases"]
    for index, settings in enumerate(case.meta["subcases"]):
        yield str(index), settings["np_seed"]


def labels_of(case: Case, name: str) -> Tensor:
    """The source labels as (B, H, W)."""
    return case.tensor(f"in/{name}/label").squeeze(1)


def test_classes_are_drawn_from_the_whole_batch_as_officially(reference: Reference) -> None:
    case = reference("classmix")
    for name, seed in subcases(case):
        classes = draw_classes(np.random.RandomState(seed), labels_of(case, name), "batch")
        assert classes == case[f"out/{name}/chosen_classes"].tolist()
        unique = case[f"out/{name}/unique"]
        assert classes == unique[case[f"in/{name}/choice"]].tolist()


def test_masks_are_the_official_ones(reference: Reference) -> None:
    case = reference("classmix")
    for name, _ in subcases(case):
        mask = class_mask(labels_of(case, name), case[f"out/{name}/chosen_classes"].tolist())
        assert torch.equal(mask.long(), case.tensor(f"out/{name}/mask"))


def test_images_labels_and_weights_are_mixed_as_officially(reference: Reference) -> None:
    case = reference("classmix")
    for name, _ in subcases(case):
        label = labels_of(case, name)
        mask = class_mask(label, case[f"out/{name}/chosen_classes"].tolist())
        image = mix(mask, case.tensor(f"in/{name}/src_img"), case.tensor(f"in/{name}/trg_img"))
        mixed_label = mix(mask, label, case.tensor(f"in/{name}/pseudo_label"))
        weight = mix(mask, 1.0, case.tensor(f"in/{name}/pseudo_weight"))
        assert torch.equal(image, case.tensor(f"out/{name}/mixed_img"))
        assert torch.equal(mixed_label, case.tensor(f"out/{name}/mixed_label").squeeze(1))
        assert torch.equal(weight, case.tensor(f"out/{name}/mixed_weight"))
