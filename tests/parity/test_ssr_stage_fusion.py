"""Case 1: SSR's fusion of teacher features into the four stages."""

import torch
from torch import Tensor

from stages.student.names import import_official
from stages.train.regularizers.cross_attention import CrossAttention, CrossAttentionBranch
from tests.official import export_official
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-5


def build(case: Case) -> CrossAttentionBranch:
    stages = len(case.meta["dims"])
    regularizer = CrossAttentionBranch(
        case.meta["dims"],
        {"stride8": case.meta["sam_dim"]},
        case.meta["heads"],
        ["stride8"] * stages,
    )
    tensors, unknown = import_official(case.params("param/"))
    assert not unknown
    regularizer.load_state_dict(tensors)
    return regularizer


def student_maps(case: Case) -> list[Tensor]:
    stages = range(len(case.meta["dims"]))
    return [case.tensor(f"in/stage{stage}/student").requires_grad_() for stage in stages]


def test_enhanced_features_are_the_official_ones(reference: Reference) -> None:
    case = reference("ssr_stage_fusion")
    student = student_maps(case)
    with torch.no_grad():
        enhanced = build(case)(student, {"stride8": case.tensor("in/teacher")})
    assert len(enhanced) == len(case.meta["dims"])
    for stage, (before, after) in enumerate(zip(student, enhanced, strict=True)):
        assert_close(after, case[f"out/stage{stage}/enhanced"], TOL)
        assert_close(after - before, case[f"out/stage{stage}/fusion"], TOL)


def test_embedding_and_attention_are_the_official_ones(reference: Reference) -> None:
    case = reference("ssr_stage_fusion")
    regularizer = build(case)
    teacher = case.tensor("in/teacher").flatten(2).transpose(1, 2)
    for stage, map_ in enumerate(student_maps(case)):
        attention = regularizer.fusion[str(stage)]
        assert isinstance(attention, CrossAttention)
        embedded = regularizer.embed[str(stage)](teacher)
        assert_close(embedded, case[f"out/stage{stage}/embedding"], TOL)
        query, key, _ = attention.project(map_.flatten(2).transpose(1, 2), embedded)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        largest = scores.softmax(dim=-1).amax(dim=-1)
        assert_close(largest, case[f"out/stage{stage}/attn_row_max"], TOL)


def test_gradients_of_every_stage_are_the_official_ones(reference: Reference) -> None:
    case = reference("ssr_stage_fusion")
    for stage in range(len(case.meta["dims"])):
        for kind in ("const", "cot"):
            regularizer = build(case)
            student = student_maps(case)
            teacher = case.tensor("in/teacher").requires_grad_()
            enhanced = regularizer(student, {"stride8": teacher})[stage]
            weight = case.tensor(
                "in/grad_const" if kind == "const" else f"in/stage{stage}/cotangent"
            )
            (enhanced * weight).sum().backward()
            out = f"out/stage{stage}/{kind}"
            student_gradient = student[stage].grad
            assert student_gradient is not None
            assert teacher.grad is not None
            assert_close(student_gradient, case[f"{out}/grad_student"], TOL)
            assert_close(teacher.grad, case[f"{out}/grad_teacher"], TOL)
        gradients = export_official(
            {n: p.grad for n, p in regularizer.named_parameters() if p.grad is not None}
        )
        names = case.meta["param_grad_names"][f"stage{stage}"]
        assert sorted(gradients) == sorted(names)
        norms = torch.stack([gradients[name].norm() for name in names])
        assert_close(norms, case[f"out/stage{stage}/cot/param_grad_norms"], TOL)
        bias = gradients[f"fusion_layer.{stage}.proj.bias"]
        assert_close(bias, case[f"out/stage{stage}/cot/grad_proj_bias"], TOL)
