"""Case 11: blocks of masked image consistency."""

import numpy as np
import torch

from stages.train.adaptation.augment import block_mask, draw_blocks, mask_images
from tests.parity.cases import Reference


def test_masks_are_the_official_ones(reference: Reference) -> None:
    case = reference("mask")
    assert case.meta["subcases"]
    for name, settings in case.meta["subcases"].items():
        size = (settings["H"], settings["W"])
        mask = block_mask(case.tensor(f"in/{name}/uniform"), size, settings["ratio"])
        assert torch.equal(mask, case.tensor(f"out/{name}/mask"))


def test_masked_images_are_the_official_ones(reference: Reference) -> None:
    case = reference("mask")
    for name, settings in case.meta["subcases"].items():
        uniform, images = case.tensor(f"in/{name}/uniform"), case.tensor(f"in/{name}/img")
        masked = mask_images(images, uniform, settings["ratio"])
        assert torch.equal(masked, case.tensor(f"out/{name}/masked"))


def test_the_grid_is_rounded_as_officially(reference: Reference) -> None:
    case = reference("mask")
    for name, settings in case.meta["subcases"].items():
        size = (settings["H"], settings["W"])
        blocks = draw_blocks(np.random.default_rng(0), settings["B"], size, settings["block"])
        assert list(blocks.shape) == settings["grid"]
        assert blocks.shape == case.tensor(f"in/{name}/uniform").shape
