import errno
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import SegformerModel

from stages.student.config import SemaskConfig
from stages.student.heads import ConvNormAct, DAFormerHead
from stages.student.mit import BACKBONES, MiT, build_backbone, stage_features
from stages.student.saved import Layout, read_card, save_student
from stages.student.student import Student, build_student, load_student, seeded
from store.errors import CheckpointError
from tests.evaluate.models import student_config
from tests.train.example import EFFICIENTNET_LITE

CONFIG = student_config(head_channels=8)
SEMASK = SemaskConfig(window=4, attention=True, aux_weight=0.4)
META = {"classes": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]]}


def tiny(**changes: object) -> Student:
    return build_student(CONFIG.model_copy(update=changes), num_classes=2, seed=3)


def test_drop_path_grows_linearly_from_zero_to_its_rate() -> None:
    with torch.device("meta"):
        b5 = build_backbone(BACKBONES["mit_b5"], drop_path=0.1, norm_eps=1e-6)
    blocks = [block for stage in b5.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 52), atol=1e-12)


@pytest.mark.parametrize(
    ("drop_path", "precision"), [(0.0, torch.float32), (0.5, torch.float32), (0.5, torch.bfloat16)]
)
def test_stochastic_depth_draws_and_divides_as_the_blocks_of_transformers_do(
    drop_path: float, precision: torch.dtype
) -> None:
    """To the bit in float32; in bfloat16 the quotient is not rounded before it is added."""
    mit = MiT((8, 16, 40, 64), (2, 2, 1, 2))
    with seeded(0):
        ours = build_backbone(mit, drop_path=drop_path, norm_eps=1e-5).train()
    plain = SegformerModel(ours.config).train()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for backbone in (plain, ours):
        with seeded(1), torch.autocast("cpu", precision, enabled=precision != torch.float32):
            features = [*stage_features(backbone.stages, images), torch.rand(1)]
        total = torch.stack([map_.float().square().mean() for map_ in features]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        gradients = {n: w.grad for n, w in backbone.named_parameters()}
        found.append({**dict(enumerate(features)), **gradients})
    bound = 0.0 if precision == torch.float32 else 0.1
    torch.testing.assert_close(found[1], found[0], rtol=bound, atol=bound)


def test_backbone_starts_as_the_official_one() -> None:
    with seeded(0):
        backbone = build_backbone(BACKBONES["mit_b0"], drop_path=0.1, norm_eps=1e-6)
    convolution = backbone.stages[1].blocks[0].mlp.dwconv.dwconv  # depthwise: fan out is 9
    assert convolution.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    stem = backbone.stages[0].patch_embeddings.proj
    assert stem.weight.std().item() == pytest.approx((2 / (49 * 32)) ** 0.5, rel=0.05)
    linear = backbone.stages[1].blocks[0].mlp.fc1
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any(p.any() for n, p in backbone.named_parameters() if n.endswith("bias"))


def test_seed_decides_all_weights_and_leaves_the_global_generator_alone() -> None:
    torch.rand(1)  # somewhere else than after a build
    state = torch.get_rng_state()
    first, second = tiny().state_dict(), tiny().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_student(CONFIG, num_classes=2, seed=4).state_dict()
    assert not torch.equal(first["head.classifier.weight"], other["head.classifier.weight"])


@pytest.mark.parametrize(
    "changes", [{"norm_eps": 1e-5}, {"head": "mlp"}, {"semask": SEMASK}, EFFICIENTNET_LITE]
)
def test_saved_student_comes_back_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update=changes)
    student = build_student(config, num_classes=2, seed=1)
    images = torch.randn(2, 3, 32, 64)
    student(images)  # batch-norm statistics move
    save_student(student, tmp_path / "student", config=config, meta=META)
    loaded, meta = load_student(tmp_path / "student")
    assert meta == META
    with torch.no_grad():
        assert torch.equal(loaded(images), student.eval()(images))
    assert loaded.state_dict().keys() == student.state_dict().keys()
    if isinstance(loaded.backbone, SegformerModel):
        assert loaded.backbone.stages[0].layer_norm.eps == config.norm_eps


def widen(card: bytes) -> bytes:
    return card.replace(b'"head_channels": 8', b'"head_channels": 9')


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("model.safetensors", lambda weights: weights + b" ", "sha256 differs"),
        ("config.json", lambda card: b"\xff" + card, "no student of this project"),
        ("config.json", widen, "is not as it was written"),
        (
            "config.json",
            lambda card: re.sub(rb',\s*"sha256": "\w+"', b"", widen(card)),
            "another architecture",
        ),
    ],
)
def test_broken_folder_is_refused_in_one_line(
    tmp_path: Path, file: str, damage: Callable[[bytes], bytes], says: str
) -> None:
    save_student(tiny(), tmp_path, config=CONFIG, meta={})
    (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{tmp_path}.*{says}") as error:
        load_student(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    student = tiny()
    torch.nn.init.constant_(student.head.get_parameter("classifier.bias"), torch.nan)
    save_student(student, tmp_path, config=CONFIG, meta={})
    with pytest.raises(CheckpointError, match=r"head\.classifier\.bias holds values that are not"):
        load_student(tmp_path)


@pytest.mark.parametrize("layout", ["ssr", "segformer"])
def test_a_flipped_bit_anywhere_in_the_card_is_refused(tmp_path: Path, layout: Layout) -> None:
    config = CONFIG.model_copy(update={"norm_eps": 1e-5, "head": "mlp"})
    student = build_student(config, num_classes=2, seed=1)
    meta = {**META, "lr": 1e-6, "name": "\u00e9"}
    save_student(student, tmp_path, config=config, meta=meta, layout=layout)
    path, rng = tmp_path / "config.json", random.Random(0)
    written = path.read_bytes()
    for place in range(len(written)):
        flipped = bytearray(written)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read_card(tmp_path)
    path.write_bytes(written)
    assert read_card(tmp_path).meta == meta


def test_a_student_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_student(tiny(), tmp_path, config=CONFIG, meta={})
    failing = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(CheckpointError, match=r"json cannot be read now .*Input/output error"):
        load_student(tmp_path)


def test_convolutions_start_as_mmcv_starts_them() -> None:
    with seeded(0):
        head = DAFormerHead(BACKBONES["mit_b5"].widths, 256, 256, 19, dropout=0.1)
    blocks = [module for module in head.modules() if isinstance(module, ConvNormAct)]
    assert len(blocks) == 1 + 3 * 2 + 1
    for block in blocks:
        # Kaiming normal, fan out as PyTorch counts it: without regard to groups
        fan_out = block.conv.out_channels * block.conv.weight[0, 0].numel()
        assert block.conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert block.conv.bias is None
