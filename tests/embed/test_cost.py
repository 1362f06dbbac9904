"""What an encoder costs, against the published counts and measured memory."""

import pytest

from stages.embed.teachers.sam_encoder import macs_per_tile, memory_bytes
from stages.embed.teachers.sam_sizes import ArchitectureName


@pytest.mark.parametrize(
    ("name", "gmac"), [("vit_b", 486), ("vit_l", 1493), ("vit_h", 2981)]
)  # counted on the official encoders
def test_multiply_accumulates_are_those_of_the_official_encoders(
    name: ArchitectureName, gmac: int
) -> None:
    assert macs_per_tile(name) == pytest.approx(gmac * 1e9, rel=1e-3)


def test_one_tile_of_vit_b_needs_what_was_measured_and_a_batch_that_many_times() -> None:
    weights = 4 * 89_670_912
    measured = {1: 0.38e9, 2: 0.71e9}  # peak resident memory in float32, weights not counted
    for tiles, size_bytes in measured.items():
        assert memory_bytes("vit_b", tiles) - weights == pytest.approx(size_bytes, rel=0.25)
