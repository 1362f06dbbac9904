"""Case 13: the official image encoder and SAM's preprocessing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.device import float32_on_gpu
from stages.embed.task import tile_input
from stages.embed.teachers.encoder import Encoder
from stages.embed.teachers.sam_encoder import PREFIX, build_encoder, fuse_attention, load_encoder
from stages.embed.teachers.sam_sizes import ARCHITECTURES, NORM_EPS, Architecture, ArchitectureName
from stages.embed.tiling import plan_tiles
from stages.prepare.geometry import fit_size, working_size
from stages.prepare.pixels import MEAN, STD
from tests.parity.cases import Case, Reference, assert_close

TOL = 2e-5


@pytest.fixture(scope="module")
def case(reference: Reference) -> Case:
    return reference("sam_encoder")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def teacher(
    request: pytest.FixtureRequest, case: Case, tmp_path_factory: pytest.TempPathFactory
) -> Encoder:
    meta = case.meta
    architecture = Architecture(
        name="reference",
        side_px=meta["img_size"],
        patch_px=meta["patch_size"],
        width=meta["embed_dim"],
        depth=meta["depth"],
        heads=meta["num_heads"],
        mlp_ratio=meta["mlp_ratio"],
        window_tok=meta["window_size"],
        global_blocks=tuple(meta["global_attn_indexes"]),
        channels=meta["out_chans"],
    )
    path = tmp_path_factory.mktemp("sam") / "reference.pth"
    torch.save(case.params("param/"), path)
    encoder = fuse_attention(load_encoder(architecture, path))
    return Encoder(encoder, architecture.side_px, torch.device(request.param), "float32")


def test_the_epsilon_is_the_official_one(case: Case, teacher: Encoder) -> None:
    assert case.meta["eps"] == NORM_EPS
    norms = [m for m in teacher.network.modules() if isinstance(m, nn.LayerNorm)]
    assert norms
    assert {norm.eps for norm in norms} == {NORM_EPS}


def test_outputs_and_every_block_are_the_official_ones(case: Case, teacher: Encoder) -> None:
    for key in case.keys("out/enc"):
        _, run, part = key.split("/")
        tiles = case.tensor(f"out/preprocess{run.removeprefix('enc')}")
        with float32_on_gpu("highest"):
            found = trace(teacher, tiles)
        assert_close(found[part], case[key], TOL)


def test_pixels_are_normalised_then_padded_as_by_sam(case: Case) -> None:
    side = case.meta["img_size"]
    patch = case.meta["patch_size"]
    raw_keys = case.keys("in/raw")
    assert raw_keys
    for key in raw_keys:
        expected = case[key.replace("in/raw", "out/preprocess")]  # (1, 3, side, side)
        raw = case[key][0].transpose(1, 2, 0)  # (h, w, 3)
        resized = raw.astype(np.uint8)
        assert np.array_equal(resized, raw), "the case holds whole values"
        # At this stride the level's scale is 1: one tile, no resampling.
        height, width = (min(s, side) for s in working_size(raw.shape[:2], 0))
        (tile,) = plan_tiles((height // patch, width // patch), side // patch, 0.125)
        got = tile_input(
            torch.from_numpy(resized), tile, stride=patch, side_px=side, patch_px=patch
        )
        assert_close(got, expected[0], TOL)


def test_sam_normalises_as_the_student_does(case: Case) -> None:
    assert_close(MEAN, case.meta["pixel_mean"], 1e-6)
    assert_close(STD, case.meta["pixel_std"], 1e-6)


def test_the_longest_side_is_fitted_with_the_same_rounding(case: Case) -> None:
    assert case.meta["table_columns"] == ["h", "w", "long_side", "new_h", "new_w"]
    for h, w, long_side, new_h, new_w in case["out/preprocess_shape_table"].tolist():
        assert fit_size((h, w), (long_side, long_side)) == (new_h, new_w)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_full_models_have_the_official_tensors(
    reference: Reference, name: ArchitectureName
) -> None:
    official = {
        key.removeprefix(PREFIX): shape
        for key, shape in reference.json(f"sam_{name}_keys").items()
        if key.startswith(PREFIX)
    }
    with torch.device("meta"):
        ours = build_encoder(ARCHITECTURES[name]).state_dict()
    assert {key: list(value.shape) for key, value in ours.items()} == official


def trace(teacher: Encoder, tiles: Tensor) -> dict[str, Tensor]:
    """Encode and keep what every block, attention and the patch embedding returned."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, given: object, result: Tensor) -> None:
            seen[name] = result.cpu()

        return hook

    encoder = teacher.network
    watched = {"patch_embed": encoder.get_submodule("patch_embed")}
    for k, block in enumerate(encoder.get_submodule("blocks").children()):
        watched |= {f"block{k}": block, f"attn{k}": block.get_submodule("attn")}
    handles = [module.register_forward_hook(keep(name)) for name, module in watched.items()]
    seen["output"] = teacher.encode(tiles, ["stride8"])["stride8"]
    for handle in handles:
        handle.remove()
    return seen
