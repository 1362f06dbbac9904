"""Checkpoints of other projects, as files of their exact layout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.prepare.datasets.camvid import CAMVID_11
from stages.prepare.labels import CITYSCAPES_19, ClassTable
from stages.student.foreign import read_foreign, save_foreign
from stages.student.saved import save_student
from stages.student.student import Student, build_student, load_student
from stages.student.weights import Network
from store.errors import CheckpointError, ConfigError
from tests.official import export_official
from tests.student.test_weights import assert_equal, regularizer
from tests.train.example import train_config

TWO = ClassTable(("road", "sky"), ((128, 64, 128), (70, 130, 180)))
META = {"iter": 40000, "CLASSES": TWO.names, "PALETTE": [list(color) for color in TWO.palette]}


def network(seed: int) -> Student:
    config = train_config(student={"backbone": "mit_b0", "head_channels": 16}).student
    return build_student(config, num_classes=2, seed=seed)


def backbone() -> dict[str, Tensor]:
    official = export_official(network(1).state_dict())
    return {name: tensor for name, tensor in official.items() if name.startswith("backbone.")}


def test_a_student_of_two_scales_is_found_by_its_attention(tmp_path: Path) -> None:
    hrda = {"detail_px": 512, "detail_weight": 0.1, "attention_channels": 8, "margin_px": 30}
    config = train_config(crop_px=1024, student={"backbone": "mit_b0", "hrda": hrda}).student
    student = build_student(config, num_classes=2, seed=1)
    state = {
        n if "scale_attention" in n else n.replace("decode_head.", "decode_head.head."): tensor
        for n, tensor in export_official(student.state_dict()).items()
    }
    assert "decode_head.scale_attention.fuse_layer.bn.weight" in state
    torch.save({"meta": META, "state_dict": state}, tmp_path / "hrda.pth")
    foreign = read_foreign(tmp_path / "hrda.pth")
    assert (foreign.config.hrda, foreign.loaded) == (config.hrda, len(state))
    assert foreign.differences == ((), (), ())
    assert_equal(foreign.student, student)


def training(path: Path, **changes: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """Write an SSR training as mmcv does; return the names of its tensors."""
    state = {
        **{f"model.{n}": t for n, t in export_official(network(1).state_dict()).items()},
        **{f"ema_model.{n}": t for n, t in export_official(network(2).state_dict()).items()},
        "imnet_model.backbone.norm1.weight": torch.ones(32),
        **export_official(regularizer(1, ["stride8"] * 4).state_dict()),
        "predictor.model.image_encoder.pos_embed": torch.zeros(1),
        **changes,
    }
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    torch.save({"meta": META, "state_dict": state, "optimizer": {"param_groups": []}}, path)
    return state


@pytest.mark.parametrize(("which", "seed"), [("student", 1), ("ema", 2)])
def test_either_network_of_a_training_becomes_a_folder(
    tmp_path: Path, which: Network, seed: int
) -> None:
    state = training(tmp_path / "latest.pth")
    foreign = read_foreign(tmp_path / "latest.pth", network=which)
    assert (foreign.config.backbone, foreign.config.head) == ("mit_b0", "daformer")
    assert (foreign.config.head_channels, foreign.config.norm_eps) == (16, 1e-6)
    assert (foreign.kind, foreign.iteration, foreign.classes) == ("training", 40000, TWO)
    assert foreign.loaded == sum(name.startswith("model.") for name in state)
    assert foreign.differences == ((), (), ())
    save_foreign(foreign, tmp_path / "student", fit_px=(1024, 512))
    loaded, meta = load_student(tmp_path / "student")
    assert_equal(loaded, network(seed))
    assert (meta["classes"], meta["palette"]) == ([*TWO.names], META["PALETTE"])
    assert meta["data"]["target"]["fit_px"] == [1024, 512]
    assert meta["imported"]["network"] == which
    assert meta["weights"] == "latest.pth"


def test_every_tensor_that_does_not_fit_is_reported_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    training(
        path,
        **{
            "model.backbone.block2.0.attn.kv.weight": None,
            "model.decode_head.fuse_layer.bottleneck.bn.running_mean": None,
            "model.backbone.norm4.bias": torch.ones(7),
            "model.auxiliary_head.conv_seg.bias": torch.ones(2),
            "model.backbone.block2.0.attn.gate": torch.ones(2),
        },
    )
    foreign = read_foreign(path)
    missing = (
        "backbone.block2.0.attn.kv.weight",
        "decode_head.fuse_layer.bottleneck.bn.running_mean",
    )
    unexpected = ("auxiliary_head.conv_seg.bias", "backbone.block2.0.attn.gate")
    misshapen = ("backbone.norm4.bias (7,), not (256,)",)
    assert foreign.differences == (missing, unexpected, misshapen)
    says = r"2 missing: backbone\.block2.* and 1 more; 2 unexpected: .* and 1 more; 1 of other sha"
    with pytest.raises(CheckpointError, match=says):
        save_foreign(foreign, tmp_path / "student", fit_px=None)
    assert not (tmp_path / "student").exists()


def test_an_imagenet_file_fills_the_backbone_and_its_classifier_is_reported(
    tmp_path: Path,
) -> None:
    bare = {name.removeprefix("backbone."): tensor for name, tensor in backbone().items()}
    head = {"head.weight": torch.ones(1000, 256), "head.bias": torch.ones(1000)}
    torch.save(bare | head, tmp_path / "mit_b0.pth")
    foreign = read_foreign(tmp_path / "mit_b0.pth", classes=CAMVID_11)
    assert foreign.kind == "backbone"
    assert foreign.config.head_channels == 256  # the paper's, as nothing in the file says
    assert foreign.differences.unexpected == ("head.weight", "head.bias")
    assert all(name.startswith("decode_head.") for name in foreign.differences.missing)
    assert "decode_head.conv_seg.weight" in foreign.differences.missing
    assert_equal(foreign.student.backbone, network(1).backbone)
    save_foreign(foreign, tmp_path / "student", fit_px=None)
    assert load_student(tmp_path / "student")[0].num_classes == 11


def test_classes_come_from_the_file_or_from_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({"state_dict": export_official(network(1).state_dict())}, path)
    with pytest.raises(CheckpointError, match=r"does not say .* give --classes, one of citys"):
        read_foreign(path)
    with pytest.raises(CheckpointError, match="logits of 2 classes, and 19 classes are given"):
        read_foreign(path, classes=CITYSCAPES_19)
    assert read_foreign(path, classes=TWO).classes == TWO


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("conv1.weight", "holds no MiT backbone that is known here"),
        ("decode_head.linear_fuse.conv.weight", r"is not DAFormer's \(decode_head\.linear_fuse"),
        ("segformer.encoder.patch_embeddings.0.proj.weight", "a Segformer of transformers as"),
        ("backbone.stages.0.patch_embeddings.proj.weight", "needs no import: give a student"),
        ("_conv_stem.weight", "EfficientNet-Lite has its own, imagenet"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, name: str, says: str) -> None:
    others = backbone() if name.startswith("decode_head.") else {}
    torch.save(others | {name: torch.ones(64, 3, 7, 7)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=says) as error:
        read_foreign(tmp_path / "m.pth", classes=TWO)
    assert "\n" not in str(error.value)


def test_a_trained_student_is_not_replaced(tmp_path: Path) -> None:
    training(tmp_path / "latest.pth")
    foreign = read_foreign(tmp_path / "latest.pth")
    config = foreign.config
    save_student(network(3), tmp_path / "student", config=config, meta={"classes": ["a", "b"]})
    with pytest.raises(ConfigError, match="holds a student that was trained here"):
        save_foreign(foreign, tmp_path / "student", fit_px=None)
    for _ in range(2):  # an imported one is
        save_foreign(foreign, tmp_path / "imported", fit_px=None)
