"""Case 3: the MiT backbone, also where LayerNorm epsilons decide."""

import pytest
import torch

from stages.student.mit import MiT, build_backbone, stage_features
from stages.student.weights import import_official
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-5
STANDARD_PATCHES = [[7, 4, 3], [3, 2, 1], [3, 2, 1], [3, 2, 1]]


def features(case: Case, size: list[int], norm_eps: float) -> list[torch.Tensor]:
    meta = case.meta
    assert meta["patch"] == STANDARD_PATCHES
    assert meta["qkv_bias"] is True
    mit = MiT(
        meta["embed_dims"], meta["depths"], meta["num_heads"], meta["sr_ratios"], meta["mlp_ratio"]
    )
    backbone = build_backbone(mit, drop_path=0.0, norm_eps=norm_eps).eval()
    official = {f"backbone.{name}": t for name, t in case.params("param/").items()}
    tensors, unknown = import_official(official)
    assert not unknown
    backbone.load_state_dict({n.removeprefix("backbone."): t for n, t in tensors.items()})
    with torch.no_grad():
        return stage_features(backbone.stages, case.tensor("in/img_{}x{}".format(*size)))


@pytest.mark.parametrize("name", ["mit_backbone", "mit_backbone_lowvar"])
def test_features_of_all_sizes_are_the_official_ones(reference: Reference, name: str) -> None:
    case = reference(name)
    for size in case.meta["sizes"]:
        maps = features(case, size, case.meta["eps"]["blocks_and_stage_norms"])
        assert len(maps) == len(case.meta["embed_dims"])
        for stage, map_ in enumerate(maps):
            assert_close(map_, case["out/{}x{}/stage{}".format(*size, stage)], TOL)


def test_the_other_epsilon_costs_what_the_reference_says(reference: Reference) -> None:
    case = reference("mit_backbone_lowvar")
    for size in case.meta["sizes"]:
        for stage, map_ in enumerate(features(case, size, 1e-5)):
            key = "{}x{}/stage{}".format(*size, stage)
            cost = (map_ - case.tensor(f"out/{key}")).abs().max().item()
            assert cost == pytest.approx(case.meta["diff_if_eps_1e5_everywhere"][key], rel=0.01)
