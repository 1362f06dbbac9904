"""Key lists of the full official models against ours, name by name and shape by shape."""

from pathlib import Path

import torch
from torch import nn

from stages.prepare.labels import CITYSCAPES_19
from stages.student.foreign import read_foreign
from stages.student.heads import DAFormerHead
from stages.student.mit import BACKBONES, build_backbone
from stages.student.weights import import_official
from tests.official import export_official
from tests.parity.cases import Reference


def assert_same_layout(network: nn.Module, official: dict[str, list[int]]) -> None:
    empty = {name: torch.empty(shape, device="meta") for name, shape in official.items()}
    tensors, unknown = import_official(empty)
    assert not unknown
    ours = network.state_dict()
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in ours.items()}
    assert {n: list(t.shape) for n, t in export_official(ours).items()} == official


def test_mit_b5_has_the_official_tensors(reference: Reference) -> None:
    keys = reference.json("mit_b5_keys")
    with torch.device("meta"):
        backbone = build_backbone(BACKBONES["mit_b5"], drop_path=0.1, norm_eps=1e-6)
    network = nn.ModuleDict({"backbone": backbone})
    assert_same_layout(network, {f"backbone.{name}": shape for name, shape in keys.items()})


def test_the_daformer_head_has_the_official_tensors(reference: Reference) -> None:
    keys = reference.json("daformer_head_full_keys")
    classes, channels = keys["conv_seg.weight"][:2]
    with torch.device("meta"):
        head = DAFormerHead(BACKBONES["mit_b5"].widths, channels, channels, classes, dropout=0.1)
    network = nn.ModuleDict({"head": head})
    assert_same_layout(network, {f"decode_head.{name}": shape for name, shape in keys.items()})


def test_a_checkpoint_of_all_official_tensors_imports_without_a_fault(
    reference: Reference, tmp_path: Path
) -> None:
    backbone = reference.json("mit_b5_keys")
    head = reference.json("daformer_head_full_keys")
    shapes = {
        **{f"model.backbone.{name}": shape for name, shape in backbone.items()},
        **{f"model.decode_head.{name}": shape for name, shape in head.items()},
    }
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}  # few bytes
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "latest.pth")
    foreign = read_foreign(tmp_path / "latest.pth", classes=CITYSCAPES_19)
    assert foreign.differences == ((), (), ())
    assert foreign.loaded == len(shapes)
    config = foreign.config
    assert (config.backbone, config.head, config.head_channels) == ("mit_b5", "daformer", 256)
    assert not any(tensor.any() for tensor in foreign.student.state_dict().values())
