from dataclasses import replace
from typing import Any

import pytest

from store.errors import StoreError
from store.spec import Level, StoreSpec, levels_of_format_1
from tests.store.worlds import SPEC


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, format=1),
        replace(SPEC, shard_images=4),
        replace(SPEC, grid_px=(192, 160)),
        replace(SPEC, provenance={**SPEC.provenance, "precision": "bfloat16"}),
    ],
)
def test_the_fingerprint_depends_on_all_that_features_depend_on(other: StoreSpec) -> None:
    assert other.fingerprint != SPEC.fingerprint


def test_the_fingerprint_is_a_constant_of_each_format() -> None:
    spec = StoreSpec("source", levels_of_format_1(1), (32, 32), 1, "float16", {}, format=1)
    # sha256sum of the line {"channels":1,"codec":"float16","format":1,"grid_px":[32,32],
    # "provenance":{},"shard_images":1} (unbroken, with its newline)
    assert spec.fingerprint == "a82ff158350bc985ac8eec7f9091823910b5488f62702e205aec3245eb3a40ed"


@pytest.mark.parametrize(
    "beyond",
    [
        *({"grid_px": grid_px} for grid_px in ((0, 32), (32, 40), (-32, 32), (32, 2**16 + 32))),
        {"shard_images": 2**10 + 1},
        {"domain": "../source"},
        *({"levels": {"a": level}} for level in (Level(8, 2**14 + 1), Level(8, 0), Level(12, 4))),
        *({"levels": {name: Level(8, 4)}} for name in ("", "a/b", "live", "leases", "x_a", "é")),
    ],
)
def test_a_specification_that_no_store_can_have_is_refused(beyond: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="no store can have"):
        replace(SPEC, **beyond)


def test_a_codec_that_is_not_known_is_refused() -> None:
    with pytest.raises(StoreError, match="unknown codec 'int4': choose from float16, int8"):
        replace(SPEC, codec="int4")
