import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from stages.student.heads import DAFormerHead
from stages.student.mit import BACKBONES, MiT, build_backbone
from stages.student.names import export_official, official_to_ours, ours_to_official
from stages.student.student import Student, seeded
from stages.student.weights import fill_official, is_of_segmenter, load_backbone
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from store.errors import CheckpointError

TINY = BACKBONES["mit_tiny"]
STUDENT = ("backbone.", "decode_head.")
"""How the names of a student's tensors begin in official files."""


def fill_regularizer(branch: CrossAttentionBranch, path: Path) -> None:
    """Fill the stages that a branch has from an official SSR training."""
    parts = ("embedding_layer", "fusion_layer")
    fill_official(branch, path, [f"{part}.{stage}." for part in parts for stage in branch.embed])


def backbone(seed: int, mit: MiT = TINY, eps: float = 1e-6) -> SegformerModel:
    with seeded(seed):
        return build_backbone(mit, drop_path=0.1, norm_eps=eps)


def student(seed: int, num_classes: int = 3) -> Student:
    with seeded(seed):
        return Student(
            build_backbone(TINY, drop_path=0.0, norm_eps=1e-6),
            DAFormerHead(TINY.widths, 8, 8, num_classes, dropout=0.0),
        )


def regularizer(seed: int, levels: list[str | None]) -> CrossAttentionBranch:
    with seeded(seed):
        return CrossAttentionBranch(TINY.widths, 16, TINY.heads, levels)


def official_mit(seed: int) -> dict[str, Tensor]:
    """Backbone weights as in an official `mit_b*.pth`, classifier of ImageNet included."""
    tensors = export_official(nn.ModuleDict({"backbone": backbone(seed)}).state_dict())
    bare = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}
    return bare | {"head.weight": torch.ones(1000, 128), "head.bias": torch.ones(1000)}


def official_training(seed: int) -> dict[str, object]:
    """A file as mmcv writes it in the middle of an official SSR training."""
    tensors = export_official(student(seed).state_dict())
    other = export_official(student(seed + 1).state_dict())
    return {
        "meta": {"iter": 40000, "CLASSES": ["a", "b", "c"]},
        "optimizer": {"state": {}, "param_groups": []},
        "state_dict": {
            **{f"model.{name}": tensor for name, tensor in tensors.items()},
            **{f"ema_model.{name}": tensor for name, tensor in other.items()},
            **{f"imnet_model.{name}": tensor for name, tensor in other.items()},
            **export_official(regularizer(seed, ["stride8"] * 4).state_dict()),
            "predictor.pos_embed": torch.zeros(1),
        },
    }


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def one_line(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_names_go_both_ways() -> None:
    assert official_to_ours("backbone.block3.17.attn.kv.bias") == (
        "backbone.stages.2.blocks.17.attention.k_proj.bias",
        "backbone.stages.2.blocks.17.attention.v_proj.bias",
    )
    assert official_to_ours("decode_head.conv_seg.weight") == ("head.classifier.weight",)
    assert official_to_ours("decode_head.conv_seg2.weight") == ()
    assert ours_to_official("backbone.stages.0.layer_norm.weight") == "backbone.norm1.weight"
    assert ours_to_official("fusion.3.kv.weight") == "fusion_layer.3.kv.weight"
    assert ours_to_official("head.batch_norm.weight") is None


def test_export_joins_keys_before_values() -> None:
    prefix = "backbone.stages.0.blocks.0.attention"
    values, keys = torch.ones(2, 2), torch.zeros(2, 2)
    exported = export_official({f"{prefix}.v_proj.weight": values, f"{prefix}.k_proj.weight": keys})
    assert exported.keys() == {"backbone.block1.0.attn.kv.weight"}
    assert torch.equal(exported["backbone.block1.0.attn.kv.weight"], torch.cat([keys, values]))


def test_export_refuses_halves_and_unknown_names() -> None:
    with pytest.raises(ValueError, match="needs all of"):
        export_official({"backbone.stages.0.blocks.0.attention.k_proj.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="has no official name"):
        export_official({"head.linear_fuse.weight": torch.ones(2, 2)})


@pytest.mark.parametrize("wrap", [False, True])
def test_official_imagenet_file_fills_the_backbone(tmp_path: Path, wrap: bool) -> None:
    path, tensors = tmp_path / "mit_tiny.pth", official_mit(seed=1)
    torch.save({"state_dict": tensors} if wrap else tensors, path)
    ours = backbone(seed=2)
    load_backbone(ours, str(path))
    assert_equal(ours, backbone(seed=1))


def test_backbone_is_taken_from_an_official_training(tmp_path: Path) -> None:
    torch.save(official_training(seed=1), tmp_path / "latest.pth")
    ours = backbone(seed=5)
    load_backbone(ours, str(tmp_path / "latest.pth"))
    assert_equal(ours, student(seed=1).backbone)


def test_student_and_regulariser_are_taken_from_an_official_training(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    torch.save(official_training(seed=1), path)
    ours, fusion = student(seed=5), regularizer(5, ["stride8"] * 4)
    fill_official(ours, path, STUDENT)
    fill_regularizer(fusion, path)
    assert_equal(ours, student(seed=1))
    assert_equal(fusion, regularizer(1, ["stride8"] * 4))


def test_regulariser_of_some_stages_takes_only_those(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    torch.save(official_training(seed=1), path)
    fusion = regularizer(5, [None, "stride8", None, None])
    fill_regularizer(fusion, path)
    whole = regularizer(1, ["stride8"] * 4).state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in fusion.state_dict().items())


def test_file_of_a_student_alone_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"state_dict": export_official(student(seed=1).state_dict())}, path)
    ours = student(seed=5)
    fill_official(ours, path, STUDENT)
    assert_equal(ours, student(seed=1))


def test_missing_and_unexpected_tensors_are_reported(tmp_path: Path) -> None:
    path, tensors = tmp_path / "mit.pth", official_mit(seed=1)
    del tensors["block2.0.attn.kv.weight"], tensors["norm4.bias"]
    tensors |= {"block2.7.norm1.weight": torch.ones(32), "cls_token": torch.ones(1)}
    torch.save(tensors, path)
    ours, untouched = backbone(seed=2), backbone(seed=2)
    with pytest.raises(CheckpointError) as error:
        load_backbone(ours, str(path))
    message = one_line(error)
    assert "2 missing: backbone.block2.0.attn.kv.weight and 1 more" in message
    assert "2 unexpected: backbone.cls_token and 1 more" in message
    assert_equal(ours, untouched)


def test_checkpoint_of_another_width_is_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "mit.pth"
    torch.save(official_mit(seed=1), path)
    wider = backbone(0, MiT((32, 64, 160, 256), TINY.depths))
    with pytest.raises(CheckpointError, match="checkpoint of another architecture") as error:
        load_backbone(wider, str(path))
    assert "backbone.patch_embed1.proj.weight (16, 3, 7, 7), not (32, 3, 7, 7)" in one_line(error)
    assert len(one_line(error)) < 700  # hundreds of tensors differ


def test_head_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    torch.save(official_training(seed=1), path)
    with pytest.raises(CheckpointError, match="another architecture") as error:
        fill_official(student(2, num_classes=4), path, STUDENT)
    assert "decode_head.conv_seg.weight (3, 8, 1, 1), not (4, 8, 1, 1)" in one_line(error)


def test_file_without_a_regulariser_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(export_official(student(seed=1).state_dict()), path)
    with pytest.raises(CheckpointError, match=r"missing: embedding_layer\.0\.proj\.weight"):
        fill_regularizer(regularizer(5, ["stride8"] * 4), path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mit.pth"
    torch.save(official_mit(seed=1), path)
    for share in (0.999, 0.5, 0.0):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(CheckpointError, match="is damaged or not a weight file") as error:
            load_backbone(backbone(2), str(path))
        one_line(error)


class Surprise:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("the file ran code",))


def test_pickles_that_could_run_code_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mit.pth"
    torch.save({"state_dict": Surprise()}, path)
    with pytest.raises(CheckpointError):
        load_backbone(backbone(2), str(path))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": 4}])
def test_file_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "mit.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="holds no table of tensors"):
        load_backbone(backbone(2), str(path))


def test_absent_file_is_not_taken_for_a_hugging_face_id() -> None:
    with pytest.raises(CheckpointError, match=r"weights/mit_b5\.pth does not exist"):
        load_backbone(backbone(2), "weights/mit_b5.pth")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder as `nvidia/mit-b*` are: a classifier with its backbone inside."""
    config = SegformerConfig(
        hidden_sizes=TINY.widths, depths=TINY.depths, num_attention_heads=TINY.heads
    )
    with seeded(1):
        model = SegformerForImageClassification(config)
    path = tmp_path / "hugging"
    model.save_pretrained(path)
    return path


def test_hugging_face_folder_fills_the_backbone_and_keeps_the_epsilon(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    capsys.readouterr()
    ours = backbone(seed=2, eps=1e-6)
    load_backbone(ours, str(folder))
    printed = capsys.readouterr()
    assert printed.out == printed.err == caplog.text == ""
    assert_equal(ours, SegformerModel.from_pretrained(folder))
    stage = ours.stages[1]
    assert stage.layer_norm.eps == stage.blocks[0].layernorm_before.eps == 1e-6
    assert stage.patch_embeddings.layer_norm.eps == 1e-5
    assert ours.stages[3].blocks[0].drop_path.drop_prob == pytest.approx(0.1)


def test_what_comes_with_a_decode_head_is_not_imagenets(folder: Path, tmp_path: Path) -> None:
    assert not is_of_segmenter(str(folder))
    config = SegformerConfig.from_pretrained(folder)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segmenter")
    assert is_of_segmenter(str(tmp_path / "segmenter"))
    whole = export_official(student(1).state_dict())
    for name, tensors in {
        "mit.pth": {n.removeprefix("backbone."): t for n, t in whole.items() if "decode" not in n},
        "mmseg.pth": whole,
        "daformer.pth": {f"model.{n}": t for n, t in whole.items()},
    }.items():
        torch.save({"state_dict": tensors}, tmp_path / name)
        load_backbone(backbone(2), str(tmp_path / name))
        assert is_of_segmenter(str(tmp_path / name)) == (name != "mit.pth")


def test_hugging_face_tensors_that_are_missing_are_not_made_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("layer_norm.3.bias"))
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing: stages\.3\.layer_norm\.bias") as error:
        load_backbone(backbone(2), str(folder))
    one_line(error)


@pytest.mark.parametrize(
    "mit",
    [
        MiT((32, 64, 160, 256), TINY.depths),
        MiT(TINY.widths, (1, 1, 2, 1)),
        MiT(TINY.widths, TINY.depths, heads=(1, 1, 5, 8)),
    ],
)
def test_hugging_face_folder_of_another_architecture_is_refused(folder: Path, mit: MiT) -> None:
    with pytest.raises(CheckpointError, match="checkpoint of another architecture") as error:
        load_backbone(backbone(2, mit), str(folder))
    one_line(error)


def test_damaged_hugging_face_folder_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cannot load") as error:
        load_backbone(backbone(2), str(folder))
    one_line(error)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="does not exist") as error:
        load_backbone(backbone(2), str(folder))
    one_line(error)


def test_id_that_cannot_be_reached_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="cannot load nvidia/mit-b5 from Hugging Face") as e:
        load_backbone(backbone(2), "nvidia/mit-b5")
    assert "id that this machine can reach" in one_line(e)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({0: torch.ones(2)}, "no table of tensors"),
        ({"patch_embed1.proj.weight": torch.tensor(1.0)}, "no table of tensors"),
        ({"norm1.weight": torch.ones(2, dtype=torch.complex64)}, "no table of tensors"),
        ({"norm1.weight": torch.eye(2).to_sparse()}, "no table of tensors"),
        ({"norm1.weight": torch.tensor([1.0, float("nan")])}, "norm1.weight holds values that are"),
    ],
)
def test_a_table_of_something_else_is_no_weight_file(
    tmp_path: Path, tensors: dict[object, Tensor], says: str
) -> None:
    torch.save(tensors, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=says):
        load_backbone(backbone(seed=2), str(tmp_path / "odd.pth"))


def test_a_flipped_bit_in_a_weight_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "mit_tiny.pth"
    torch.save(official_mit(seed=1), path)
    data = bytearray(path.read_bytes())
    weight = official_mit(seed=1)["patch_embed1.proj.weight"].numpy().tobytes()
    data[data.index(weight[:64]) + 3] ^= 64
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_backbone(backbone(seed=2), str(path))
