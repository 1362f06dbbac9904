import pytest
import torch
from torch import Tensor

from stages.student.mit import BACKBONES
from stages.train.regularizers.cross_attention import CrossAttention, CrossAttentionBranch

WIDTHS, HEADS = (16, 32, 80, 128), (1, 2, 5, 8)


def student_maps(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    return [
        torch.randn(batch, width, *size, generator=generator)
        for width, size in zip(WIDTHS, sizes, strict=True)
    ]


def test_the_papers_regulariser_has_its_number_of_parameters() -> None:
    mit = BACKBONES["mit_b5"]
    with torch.device("meta"):
        regularizer = CrossAttentionBranch(mit.widths, 256, mit.heads, ["stride8"] * 4)
    assert sum(parameter.numel() for parameter in regularizer.parameters()) == 1_804_288


def test_stages_without_a_level_pass_unchanged_and_have_no_weights() -> None:
    regularizer = CrossAttentionBranch(WIDTHS, 64, HEADS, [None, "stride8", None, "stride8"])
    student = student_maps()
    enhanced = regularizer(student, {"stride8": torch.randn(2, 64, 5, 7)})
    assert enhanced[0] is student[0]
    assert enhanced[2] is student[2]
    for stage in (1, 3):
        assert enhanced[stage].shape == student[stage].shape
        assert not torch.equal(enhanced[stage], student[stage])
    assert {name.split(".")[1] for name, _ in regularizer.named_parameters()} == {"1", "3"}


def test_each_stage_reads_its_own_level_on_a_grid_of_any_size() -> None:
    regularizer = CrossAttentionBranch(
        WIDTHS, 64, HEADS, ["stride8", "stride16", "stride32", "stride8"]
    )
    teacher = {
        "stride8": torch.randn(2, 64, 4, 6),
        "stride16": torch.randn(2, 64, 2, 3),
        "stride32": torch.randn(2, 64, 1, 2),
    }
    before = regularizer(student_maps(), teacher)
    after = regularizer(student_maps(), teacher | {"stride16": torch.randn(2, 64, 2, 3)})
    changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert changed == [False, True, False, False]


def test_enhanced_feature_does_not_depend_on_where_teacher_tokens_lie() -> None:
    regularizer = CrossAttentionBranch(WIDTHS, 64, HEADS, ["stride8"] * 4)
    teacher = torch.randn(2, 64, 4, 6)
    mirrored = regularizer(student_maps(), {"stride8": teacher.flip(3)})
    for one, other in zip(regularizer(student_maps(), {"stride8": teacher}), mirrored, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_gradients_reach_student_and_regulariser_whole() -> None:
    regularizer = CrossAttentionBranch(WIDTHS, 64, HEADS, ["stride8"] * 4)
    student = [map_.requires_grad_() for map_ in student_maps()]
    enhanced = regularizer(student, {"stride8": torch.randn(2, 64, 4, 6)})
    objective = torch.stack([map_.square().sum() for map_ in enhanced]).sum()
    objective.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.any() for p in regularizer.parameters())
    assert all(map_.grad is not None and map_.grad.any() for map_ in student)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 attention heads do not divide 64 channels"):
        CrossAttention(64, 3)
