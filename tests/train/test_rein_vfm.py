"""Rein in a frozen ViT: what trains, what is saved, and what inference needs."""

import csv
import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import nn

from stages.evaluate import export
from stages.student.rein_vfm import ReinBackbone
from stages.student.saved import save_student
from stages.student.student import Student, build_student, load_student
from stages.train.config import TrainConfig
from stages.train.state import build_optimizer
from store.errors import CheckpointError, ConfigError
from tests.train.example import train_config
from tests.train.world import World, assert_same

BLOCKS = 4
VIT: dict[str, Any] = {
    **{"hidden_size": 16, "num_hidden_layers": BLOCKS, "num_attention_heads": 2},
    **{"image_size": 56, "patch_size": 14, "layerscale_value": 0.5},
}
REIN = {"from_block": 1, "tokens": 5, "rank": 2, "native_px": 64}
MODELS: dict[str, Callable[..., Any]] = {
    "dinov2": lambda **more: transformers.Dinov2Model(transformers.Dinov2Config(**VIT | more)),
    "dinov2_with_registers": lambda **more: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VIT | more)
    ),
    "dinov3_vit": lambda **more: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(
            **VIT | {"patch_size": 16, "num_register_tokens": 2, "intermediate_size": 32} | more
        )
    ),
    "sam_vision_model": lambda **more: transformers.SamVisionModel(
        transformers.SamVisionConfig(
            **VIT
            | {"image_size": 64, "patch_size": 16, "output_channels": 8, "mlp_dim": 32}
            | {"window_size": 3, "global_attn_indexes": [1, 3], "initializer_range": 0.02}
            | more,
        )
    ),
}
OWN = {
    "rein.factors.0",
    "rein.factors.1",
    *("rein.scale", "rein.to_feature.weight", "rein.to_feature.bias"),
    *("rein.to_delta.weight", "rein.to_delta.bias"),
}


def save_vit(folder: Path, kind: str = "dinov2", seed: int = 3, **more: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[kind](**more)
        for name, weight in model.named_parameters():
            if "pos" in name:  # SAM's begin at 0
                nn.init.normal_(weight)
        model.save_pretrained(folder)
    images = {"image_mean": [0.4, 0.5, 0.5], "image_std": [0.2, 0.2, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    return folder


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return save_vit(tmp_path / "vit")


def config(vit: Path, **changes: Any) -> TrainConfig:  # noqa: ANN401
    student = {"backbone": "rein_vfm", "weights": str(vit), "norm_eps": None, "drop_path": 0.0}
    student |= {"rein": REIN | changes.pop("rein", {})} | changes.pop("student", {})
    return train_config(student=student, **{"regularizer": {"on": []}} | changes)


def build(vit: Path, **changes: Any) -> Student:  # noqa: ANN401
    return build_student(config(vit, **changes).student, num_classes=11, seed=0)


def tokens_of(student: Student) -> ReinBackbone:
    assert isinstance(student.backbone, ReinBackbone)
    return student.backbone


@pytest.mark.parametrize("kind", MODELS)
def test_at_its_own_patch_and_grid_the_network_is_that_of_transformers(
    tmp_path: Path, kind: str
) -> None:
    folder = save_vit(tmp_path / "vit", kind, image_size=64, patch_size=16)
    model = transformers.AutoModel.from_pretrained(folder)
    frozen = tokens_of(build(folder)).frozen
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        hidden, grid = frozen.enter(pixels)
        for block in frozen.runners(frozen.blocks, grid):
            hidden = block(hidden)
        expected = model(frozen.renormalise(pixels), output_hidden_states=True).hidden_states[-1]
    expected = expected.flatten(1, -2)  # SAM's are (B, h, w, C)
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_tokens_and_head_alone_train_and_tokens_do_not_decay(vit: Path) -> None:
    student = build(vit)
    named, saved = dict(student.named_parameters()), student.state_dict()
    assert {name.removeprefix("backbone.") for name in named if "head." not in name} == OWN
    assert not [name for name in saved if "frozen" in name or "block" in name]
    frozen = tokens_of(student).frozen
    assert tokens_of(deepcopy(student)).frozen is frozen
    optimizer = build_optimizer(student.train(), None, config(vit).optimizer)
    still = {id(w) for g in optimizer.param_groups if not g["weight_decay"] for w in g["params"]}
    assert {name for name, weight in named.items() if id(weight) in still} == {
        f"backbone.{name}" for name in OWN if "to_" not in name
    }
    logits = student(torch.randn(2, 3, 64, 64))
    logits.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in named.values())
    assert not frozen.training
    assert all(weight.grad is None for weight in frozen.parameters())


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("tune", ["tokens", "lora", "all"])
def test_what_trains_begins_as_the_frozen_network_and_moves_maps_after_its_blocks(
    tmp_path: Path, kind: str, tune: str
) -> None:
    vit, images = save_vit(tmp_path / kind, kind), torch.randn(2, 3, 64, 96)
    frozen = build(vit, rein={"from_block": BLOCKS} if tune == "tokens" else {"tune": "none"})
    student = build(vit, rein={"tune": tune})
    assert not list(frozen.backbone.parameters())
    if tune == "tokens":
        nn.init.zeros_(student.get_parameter("backbone.rein.scale"))
    with torch.no_grad():  # SAM's attention has another kernel for gradients
        expected = frozen.features(images)
        assert all(map(torch.equal, student.features(images), expected))
    assert [map_.shape[2:] for map_ in expected] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    before = deepcopy(dict(tokens_of(student).frozen.state_dict()))
    optimizer = build_optimizer(student, None, config(vit).optimizer)
    for _ in range(2):  # in the first one, the factors that begin at 0 alone
        seen: Any = torch.cat([map_.flatten() for map_ in student.features(images)])
        seen.square().sum().backward()
        optimizer.step()
    named = dict(student.backbone.named_parameters())
    inner = [weight for name, weight in named.items() if not name.startswith("layers.2.")]
    assert all(weight.grad is not None and weight.grad.any() for weight in inner)
    if tune == "all":
        assert {name.split(".")[1] for name in named} == set("012")
    elif tune == "lora":
        fused = kind.startswith("sam")
        assert len(named) == 2 * (BLOCKS - REIN["from_block"]) * (1 if fused else 2)
    moved, still = student.features(images), frozen.features(images)
    assert torch.equal(moved[0], still[0])  # after block 0, the last that stays
    assert not torch.equal(moved[3], still[3])
    assert_same(dict(tokens_of(student).frozen.state_dict()), before)


def test_a_run_resumes_to_the_same_bits_and_reloads_to_the_same_logits(
    world: World, vit: Path, tmp_path: Path
) -> None:
    asked = config(vit, iterations=4, student={"head": "mlp"})
    world.resumes(asked, tmp_path, stop=2, at=2)
    row = next(csv.DictReader((tmp_path / "through/health.csv").read_text().splitlines()))
    assert float(row["student_rein_scale"]) == pytest.approx(0.001, abs=1e-3)
    assert 0 < float(row["student_rein_delta"]) < 0.1
    assert float(row["student_rein_dropped"]) == pytest.approx(1 / 5, rel=0.3)
    folder = tmp_path / "through/student"
    student, meta = load_student(folder)
    assert len(meta["classes"]) == 11
    saved = safetensors.torch.load_file(folder / "model.safetensors")
    assert {n.removeprefix("backbone.") for n in saved if n.startswith("backbone.")} == OWN
    card = json.loads((folder / "config.json").read_text())
    assert card["frozen_sha256"] == student.frozen_sha256
    images = torch.randn(1, 3, 64, 64)
    trained = build(vit, student={"head": "mlp"}).eval()
    trained.load_state_dict(saved)
    assert torch.equal(student(images), trained(images))
    result = export.run(model=tmp_path / "through", out=tmp_path / "out", onnx=False)
    assert "backbone is rein_vfm" in str(result.why_not_plain)
    assert str(tmp_path) not in (tmp_path / "out/config.json").read_text()
    readme = (tmp_path / "out/README.md").read_text()
    assert f"`vit`, a network with a licence of its own (sha256 {card['frozen_sha256']})" in readme
    assert "A Rein student, trained" in readme
    (tmp_path / "out/frozen").symlink_to(vit)
    assert torch.equal(load_student(tmp_path / "out")[0](images), student(images))
    with pytest.raises(ConfigError, match=r"frozen network .*is not translated; export it without"):
        export.run(model=tmp_path / "through", out=tmp_path / "x", onnx=True)

    vit.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"not in it, vit of sha256 \w{12}; put that folder"):
        load_student(folder)
    (folder / "frozen").symlink_to(tmp_path / "moved")
    assert torch.equal(load_student(folder)[0](images), student(images))
    (folder / "frozen").unlink()
    save_vit(folder / "frozen", seed=4)
    with pytest.raises(CheckpointError, match=r"frozen is not the frozen network that .* trained"):
        load_student(folder)


def test_a_start_on_another_frozen_network_is_refused(
    world: World, vit: Path, tmp_path: Path
) -> None:
    other = save_vit(tmp_path / "other", seed=4)
    meta = {"classes": list(world.manifest.classes.names)}
    save_student(build(other), tmp_path / "start", config=config(other).student, meta=meta)
    with pytest.raises(CheckpointError, match=r"another frozen network than train.student.weights"):
        world.train(config(vit, init=str(tmp_path / "start")), tmp_path / "run")


@pytest.mark.parametrize(
    ("damage", "from_block", "said"),
    [
        (lambda folder: save_vit(folder, num_hidden_layers=3), 1, "dinov2 with 3 blocks, and"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), 1, "cannot be loaded"),
        (lambda folder: None, 5, r"from_block is 5, and .* has 4 blocks; set it to that"),
    ],
)
def test_another_frozen_network_is_refused(
    vit: Path, damage: Callable[[Path], object], from_block: int, said: str
) -> None:
    damage(vit)
    with pytest.raises((CheckpointError, ConfigError), match=said):
        build(vit, rein={"from_block": from_block})
