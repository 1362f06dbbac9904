"""What training is said to need, against what the networks have and autograd keeps."""

import pytest
import torch
from torch import Tensor

from stages.train.cost import (
    backbone_macs,
    fusion_macs,
    head_macs,
    regularizer_parameters,
    step_macs,
    student_parameters,
    train_memory,
)
from stages.train.model.architectures import BACKBONES, BackboneName
from stages.train.model.student import build_student
from stages.train.regularizers.aligned_fusion import AlignedBranch
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from tests.train.example import train_config

pytestmark = pytest.mark.costly

CLASSES, CHANNELS = 19, 256


@pytest.mark.parametrize("head", ["daformer", "mlp"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_of_the_student_are_counted_as_it_is_built(
    backbone: BackboneName, head: str
) -> None:
    config = train_config(student={"backbone": backbone, "head": head}).student
    with torch.device("meta"):
        student = build_student(config, num_classes=CLASSES, seed=0)
    assert student_parameters(config, CLASSES) == sum(p.numel() for p in student.parameters())


@pytest.mark.parametrize("levels", [["stride8"] * 4, [None, "stride8", "stride16", None]])
def test_weights_of_the_regulariser_are_counted_as_it_is_built(levels: list[str | None]) -> None:
    config = train_config(regularizer={"levels": levels})
    mit = BACKBONES[config.student.backbone]
    built = CrossAttentionBranch(mit.widths, CHANNELS, mit.heads, levels)
    counted = regularizer_parameters(config, CLASSES, CHANNELS)
    assert counted == sum(p.numel() for p in built.parameters())
    off = train_config(regularizer={"on": []})
    assert regularizer_parameters(off, CLASSES, CHANNELS) == 0


@pytest.mark.parametrize("head", ["daformer", "mlp"])
def test_weights_of_a_guide_are_counted_as_it_is_built(head: str) -> None:
    levels = ["stride8", None, "stride16", "stride16"]
    regularizer = {"kind": "guided", "student_drop": 0.5, "levels": levels}
    config = train_config(regularizer=regularizer, student={"head": head})
    with torch.device("meta"):
        student = build_student(config.student, num_classes=CLASSES, seed=0)
        built = AlignedBranch(student.channels, CHANNELS, levels, 0.5, student.head)
    counted = regularizer_parameters(config, CLASSES, CHANNELS)
    assert counted == sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("head", ["daformer", "mlp"])
def test_activations_are_what_autograd_keeps_within_a_factor_of_one_and_a_half(head: str) -> None:
    config = train_config(
        crop_px=128,
        student={"backbone": "mit_b0", "head": head, "head_channels": 64},
        regularizer={"on": []},
    )
    student = build_student(config.student, num_classes=CLASSES, seed=0)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = student(torch.zeros(config.batch_size, 3, 128, 128))
        torch.nn.functional.interpolate(logits, scale_factor=4, mode="bilinear").log_softmax(1)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    memory = train_memory(config, num_classes=CLASSES, teacher_channels=CHANNELS)
    assert measured / 1.5 < memory.activations < measured * 1.5


def test_every_part_that_training_leaves_out_needs_no_memory() -> None:
    def total(**changes: object) -> int:
        config = train_config(**changes)
        return train_memory(config, num_classes=CLASSES, teacher_channels=CHANNELS).total

    off: dict[str, list[str]] = {"on": []}
    assert total(regularizer=off) < total()
    assert total(regularizer=off, self_training=None) < total(regularizer=off)
    assert total(batch_size=4) > total(batch_size=2)
    assert total(batch_size=4, micro_batch_size=2) == total(batch_size=2)
    assert total(activation_checkpointing=True) < total()


def test_work_of_the_papers_networks_is_what_a_flop_counter_found() -> None:
    """The specification's section 4.5, counted on the official code for MiT-B5 at 512 px."""
    config = train_config(
        batch_size=2,
        crop_px=512,
        student={"backbone": "mit_b5", "head_channels": 256, "weights": "nvidia/mit-b5"},
        feature_distance={"weight": 0.005, "classes": ["car"], "min_share": 0.75},
    )
    assert backbone_macs(BACKBONES["mit_b5"], 512) / 1e9 == pytest.approx(69.4, rel=0.02)
    assert head_macs(config.student, 512, CLASSES) / 1e9 == pytest.approx(56.9, rel=0.02)
    assert fusion_macs(config, CHANNELS) / 1e9 == pytest.approx(21.5, rel=0.02)
    plain = config.model_copy(
        update={"regularizer": config.regularizer.model_copy(update={"on": ()})}
    )
    without, with_ = (
        step_macs(c, num_classes=CLASSES, teacher_channels=CHANNELS) / 1e12 for c in (plain, config)
    )
    assert without == pytest.approx(1.9, rel=0.02)
    assert with_ - without == pytest.approx(0.68 + 0.26, rel=0.02)
