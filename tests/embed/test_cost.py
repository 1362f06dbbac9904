"""What an encoder costs, against the published counts and the official class."""

import pytest
import torch

from stages.embed.architectures import ARCHITECTURES, ArchitectureName
from stages.embed.cost import activation_bytes, macs_per_tile, parameters
from stages.embed.teacher import build_encoder


@pytest.mark.parametrize(
    ("name", "gmac"), [("vit_b", 486), ("vit_l", 1493), ("vit_h", 2981)]
)  # counted on the official encoders
def test_multiply_accumulates_are_those_of_the_official_encoders(
    name: ArchitectureName, gmac: int
) -> None:
    assert macs_per_tile(ARCHITECTURES[name]) == pytest.approx(gmac * 1e9, rel=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_are_counted_as_the_official_class_has_them(name: ArchitectureName) -> None:
    with torch.device("meta"):
        encoder = build_encoder(ARCHITECTURES[name])
    assert parameters(ARCHITECTURES[name]) == sum(p.numel() for p in encoder.parameters())


def test_one_tile_of_vit_b_needs_what_was_measured_and_a_batch_that_many_times() -> None:
    vit_b = ARCHITECTURES["vit_b"]
    measured = {1: 0.38e9, 2: 0.71e9}  # peak resident memory in float32, weights not counted
    for tiles, size_bytes in measured.items():
        assert activation_bytes(vit_b, tiles) == pytest.approx(size_bytes, rel=0.25)
    official = 2.58e9  # for one tile
    assert activation_bytes(vit_b, 1) < official / 5
