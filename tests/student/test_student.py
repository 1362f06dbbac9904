import errno
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from stages.student.config import HrdaConfig, SemaskConfig
from stages.student.heads import ConvNormAct, DAFormerHead, mlp_head
from stages.student.hrda import average_windows, crop_to, crop_tokens, logits_of
from stages.student.inference import predict_logits
from stages.student.mit import BACKBONES, MiT, build_backbone, stage_features
from stages.student.saved import Layout, read_card, save_student
from stages.student.student import Student, build_student, load_student, seeded
from store.errors import CheckpointError
from tests.evaluate.models import student_config

CONFIG = student_config(head_channels=8)
HRDA = HrdaConfig(detail_px=32, detail_weight=0.1, attention_channels=8, margin_px=0)
SEMASK = SemaskConfig(window=4, attention=True, aux_weight=0.4)
META = {"classes": ["road", "sky"], "palette": [[1, 2, 3], [4, 5, 6]]}


def tiny(**changes: object) -> Student:
    return build_student(CONFIG.model_copy(update=changes), num_classes=2, seed=3)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_official_backbones_have_the_published_sizes() -> None:
    # SegFormer's official classes; B5 is in the method's specification, section 2.1
    with torch.device("meta"):
        b5 = build_backbone(BACKBONES["mit_b5"], drop_path=0.1, norm_eps=1e-6)
        b0 = build_backbone(BACKBONES["mit_b0"], drop_path=0.1, norm_eps=1e-6)
    assert parameters(b5) == 81_443_008
    assert parameters(b0) == 3_319_392
    assert len([m for m in b5.modules() if isinstance(m, nn.LayerNorm)]) == 161


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_epsilon_reaches_block_and_stage_norms_only(eps: float) -> None:
    with torch.device("meta"):
        b5 = build_backbone(BACKBONES["mit_b5"], drop_path=0.1, norm_eps=eps)
    norms = {n: m.eps for n, m in b5.named_modules() if isinstance(m, nn.LayerNorm)}
    fixed = {n for n in norms if "patch_embeddings" in n or "sequence_reduction" in n}
    assert len(fixed) == 53
    assert {norms[name] for name in fixed} == {1e-5}
    assert {norms[name] for name in norms.keys() - fixed} == {eps}


def test_drop_path_grows_linearly_from_zero_to_its_rate() -> None:
    with torch.device("meta"):
        b5 = build_backbone(BACKBONES["mit_b5"], drop_path=0.1, norm_eps=1e-6)
    blocks = [block for stage in b5.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 52), atol=1e-12)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
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
            features = [*stage_features(backbone, images), torch.rand(1)]
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


def test_attention_is_fused_and_equals_the_plain_one() -> None:
    student = tiny(drop_path=0.0).eval()
    assert isinstance(student.backbone, SegformerModel)
    assert student.backbone.config._attn_implementation == "sdpa"
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fused = student.features(images)
        student.backbone.set_attn_implementation("eager")
        for one, other in zip(fused, student.features(images), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", ["daformer", "mlp"])
def test_features_halve_from_stride_four_and_logits_stay_there(head: str) -> None:
    student = tiny(head=head).eval()
    with torch.no_grad():
        features = student.features(torch.zeros(2, 3, 64, 96))
        logits = student.classify(features)
        assert torch.equal(student(torch.zeros(2, 3, 64, 96)), logits)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [tuple(f.shape[2:]) for f in features] == sizes
    assert tuple(f.shape[1] for f in features) == student.channels == (16, 32, 80, 128)
    assert logits.shape == (2, 2, 16, 24)
    assert student.num_classes == 2


def test_seed_decides_all_weights_and_leaves_the_global_generator_alone() -> None:
    torch.rand(1)  # somewhere else than after a build
    state = torch.get_rng_state()
    first, second = tiny().state_dict(), tiny().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = build_student(CONFIG, num_classes=2, seed=4).state_dict()
    assert not torch.equal(first["head.classifier.weight"], other["head.classifier.weight"])


@pytest.mark.parametrize("head", ["daformer", "mlp"])
def test_saved_student_comes_back_bit_for_bit(tmp_path: Path, head: str) -> None:
    config = CONFIG.model_copy(update={"head": head, "norm_eps": 1e-5})
    student = build_student(config, num_classes=2, seed=1)
    student(torch.randn(2, 3, 32, 64))  # batch-norm statistics move
    save_student(student, tmp_path / "student", config=config, meta=META)
    loaded, meta = load_student(tmp_path / "student")
    assert meta == META
    assert not loaded.training
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), student.eval()(images))
    assert loaded.state_dict().keys() == student.state_dict().keys()
    assert isinstance(loaded.backbone, SegformerModel)
    assert loaded.backbone.stages[0].layer_norm.eps == 1e-5


def damage_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_no_json(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff{")


def damage_weights_of_a_later_save(folder: Path) -> None:
    save_student(tiny(head="mlp"), folder / "new", config=CONFIG, meta={})
    (folder / "new" / "model.safetensors").replace(folder / "model.safetensors")


def damage_config(folder: Path, *dropped: str) -> None:
    path = folder / "config.json"
    lines = [line for line in path.read_text().splitlines() if not any(d in line for d in dropped)]
    text = "\n".join(lines).replace('"head_channels": 8', '"head_channels": 9')
    path.write_text(text.replace("{},\n}", "{}\n}"))


def damage_config_of_another_student(folder: Path) -> None:
    damage_config(folder, '"sha256"')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_truncated, "sha256 differs"),
        (damage_no_json, "no student of this project"),
        (damage_weights_of_a_later_save, "sha256 differs"),
        (damage_config, "is not as it was written"),
        (damage_config_of_another_student, "another architecture"),
    ],
)
def test_broken_folder_is_refused_in_one_line(tmp_path: Path, damage: object, says: str) -> None:
    save_student(tiny(), tmp_path, config=CONFIG, meta={})
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load_student(tmp_path)
    assert says in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


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


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_student_that_cannot_be_read_now_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_student(tiny(), tmp_path, config=CONFIG, meta={})
    read = Path.read_bytes

    def failing(self: Path) -> bytes:
        if self.name == name:
            raise OSError(errno.EIO, "Input/output error")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read now .*Input/output error"):
        load_student(tmp_path)


WIDTHS = BACKBONES["mit_b5"].widths


@pytest.fixture(scope="module")
def head() -> DAFormerHead:
    with seeded(0):
        return DAFormerHead(WIDTHS, 256, 256, 19, dropout=0.1)


def test_convolutions_start_as_mmcv_starts_them(head: DAFormerHead) -> None:
    blocks = [module for module in head.modules() if isinstance(module, ConvNormAct)]
    assert len(blocks) == 1 + 3 * 2 + 1
    for block in blocks:
        # Kaiming normal, fan out as PyTorch counts it: without regard to groups
        fan_out = block.conv.out_channels * block.conv.weight[0, 0].numel()
        assert block.conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        assert block.conv.bias is None
        assert bool((block.bn.weight == 1).all())
        assert not block.bn.bias.any()


def test_mlp_head_is_segformers_own() -> None:
    widths = [16, 32, 80, 128]
    head = mlp_head(widths, 24, 5, dropout=0.1).eval()
    model = SegformerForSemanticSegmentation(
        SegformerConfig(hidden_sizes=widths, depths=[1] * 4, decoder_hidden_size=24, num_labels=5)
    ).eval()
    model.decode_head.load_state_dict(head.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.segformer(images, output_hidden_states=True).hidden_states
        assert torch.equal(head(features), model(images).logits)


@pytest.mark.parametrize("attention", [True, False])
def test_semantic_layers_begin_as_nothing(attention: bool, tmp_path: Path) -> None:
    semask = SEMASK.model_copy(update={"attention": attention})
    plain, student = tiny().eval(), tiny(semask=semask).eval()
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(student(images), plain(images))
    seen = student.see(images)
    assert [map_.shape[1] for map_ in seen.class_maps] == [2] * 4
    assert torch.equal(student.classify(seen.features), plain(images))
    config = CONFIG.model_copy(update={"semask": semask})
    save_student(student, tmp_path, config=config, meta=META)
    assert load_student(tmp_path)[0].state_dict().keys() == student.state_dict().keys()
    save_student(plain, tmp_path, config=CONFIG, meta=META)
    assert "semask" not in (tmp_path / "config.json").read_text()


def test_two_scales_have_the_weights_of_one_and_attention(tmp_path: Path) -> None:
    plain, student = tiny().eval(), tiny(hrda=HRDA).eval()
    for name, weight in plain.state_dict().items():
        assert torch.equal(student.state_dict()[name], weight), name
    images = torch.randn(2, 3, 64, 96)
    logits = student(images)
    assert logits.shape == (2, 2, 16, 24)
    odd = images[..., :-5, :-1]
    assert student(odd).shape == plain(odd).shape
    assert student(odd).isfinite().all()
    student.detail_px = None
    assert not torch.equal(student(images), logits)
    assert torch.equal(student(images), logits_of(student.decode(student.see(images))))
    config = CONFIG.model_copy(update={"hrda": HRDA})
    save_student(student, tmp_path, config=config, meta=META)
    assert torch.equal(load_student(tmp_path)[0](images), logits)


def test_windows_of_two_scales_overlap_by_half() -> None:
    student, images = tiny(hrda=HRDA).eval(), torch.randn(1, 3, 64, 160)
    logits = predict_logits(
        student, images, resized_size_px=(64, 160), original_size_px=(64, 160), window_px=64
    )
    boxes = [(0, 64, x, x + 64) for x in (0, 32, 64, 96)]
    seen = [
        F.interpolate(student(crop_to(box, images)), (64, 64), mode="bilinear") for box in boxes
    ]
    torch.testing.assert_close(logits, average_windows(torch.cat(seen), boxes, (64, 160)))


def test_a_box_takes_the_tokens_that_it_touches() -> None:
    tokens = torch.arange(16.0).view(1, 1, 4, 4)  # of 16 px
    assert crop_tokens((8, 40, 16, 48), tokens, (64, 64)).tolist() == [[[[1, 2], [5, 6], [9, 10]]]]
