from dataclasses import replace

import pytest

from store.errors import StoreError
from store.fingerprint import canonical_json
from store.spec import LEVELS, StoreSpec, stride_of
from tests.store.worlds import SPEC


def test_levels_are_named_by_their_stride() -> None:
    assert [stride_of(level) for level in LEVELS] == [8, 16, 32]
    with pytest.raises(StoreError, match="stride8, stride16, stride32"):
        stride_of("stride4")


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, channels=8),
        replace(SPEC, shard_images=4),
        replace(SPEC, grid_px=(192, 160)),
        replace(SPEC, provenance={**SPEC.provenance, "precision": "bfloat16"}),
    ],
)
def test_the_fingerprint_depends_on_all_that_features_depend_on(other: StoreSpec) -> None:
    assert other.fingerprint != SPEC.fingerprint


def test_the_fingerprint_does_not_depend_on_domain_or_order_of_keys() -> None:
    reordered = dict(reversed(list(SPEC.provenance.items())))
    assert replace(SPEC, provenance=reordered).fingerprint == SPEC.fingerprint
    assert replace(SPEC, domain="target").fingerprint == SPEC.fingerprint


def test_the_fingerprint_is_a_constant_of_format_1() -> None:
    spec = StoreSpec("source", 1, (32, 32), 1, "float16", {})
    # sha256sum of the line {"channels":1,"codec":"float16","format":1,"grid_px":[32,32],
    # "provenance":{},"shard_images":1} (unbroken, with its newline)
    assert spec.fingerprint == "a82ff158350bc985ac8eec7f9091823910b5488f62702e205aec3245eb3a40ed"


def test_each_level_has_a_fingerprint_of_its_own() -> None:
    assert len({SPEC.level_fingerprint(level) for level in LEVELS}) == len(LEVELS)


@pytest.mark.parametrize("grid_px", [(0, 32), (32, 40), (-32, 32)])
def test_a_grid_that_no_level_covers_exactly_is_refused(grid_px: tuple[int, int]) -> None:
    with pytest.raises(StoreError, match="multiple of 32"):
        replace(SPEC, grid_px=grid_px)


def test_a_store_without_channels_is_refused() -> None:
    with pytest.raises(StoreError, match="channels=0"):
        replace(SPEC, channels=0)


def test_json_without_a_meaning_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})
