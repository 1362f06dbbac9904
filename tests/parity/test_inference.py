"""Case 16: whole-image inference, from the official weights to the predicted classes."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import SegformerModel

from stages.student.heads import DAFormerHead
from stages.student.inference import classes_of, predict_logits
from stages.student.mit import MiT, build_backbone
from stages.student.student import Student
from stages.student.weights import import_official
from tests.parity.cases import Case, Reference, assert_close

TOL = 1e-5
OFFICIAL_EPS = 1e-6


@pytest.fixture(scope="module")
def case(reference: Reference) -> Case:
    return reference("inference")


@pytest.fixture(scope="module")
def student(case: Case) -> Student:
    student = Student(build_mit(case), build_head(case))
    tensors, unknown = import_official(case.params("param/"))
    assert not unknown
    student.load_state_dict(tensors)
    return student.eval()


def build_mit(case: Case) -> SegformerModel:
    """Build the backbone; what `meta` leaves out is read from the shapes of the weights."""
    meta = case.meta
    blocks = [f"param/backbone.block{stage}.0" for stage in range(1, len(meta["dims"]) + 1)]
    reductions = [
        case[key].shape[-1] if (key := f"{block}.attn.sr.weight") in case.arrays else 1
        for block in blocks
    ]
    hidden, width = case[f"{blocks[0]}.mlp.fc1.weight"].shape
    mit = MiT(
        tuple(meta["dims"]),
        tuple(meta["depths"]),
        tuple(meta["heads"]),
        tuple(reductions),
        hidden // width,
    )
    return build_backbone(mit, drop_path=0.0, norm_eps=OFFICIAL_EPS)


def build_head(case: Case) -> DAFormerHead:
    meta = case.meta
    num_classes = len(case["param/decode_head.conv_seg.bias"])
    return DAFormerHead(
        meta["dims"], meta["head_embed_dims"], meta["head_channels"], num_classes, dropout=0.1
    )


def sizes(case: Case) -> tuple[tuple[int, int], tuple[int, int]]:
    """Size of the input, which has no padding, and of the original image."""
    height, width = case.meta["ori_shape"]
    return (case.meta["H"], case.meta["W"]), (height, width)


def test_logits_at_stride_4(case: Case, student: Student) -> None:
    with torch.inference_mode():
        assert_close(student(case.tensor("in/img")), case["out/logits_lowres"], TOL)


def test_logits_after_the_first_and_after_the_second_resize(case: Case, student: Student) -> None:
    image = case.tensor("in/img")
    input_px, original_px = sizes(case)
    for size_px, name in ((input_px, "logits_img_size"), (original_px, "logits_ori_size")):
        logits = predict_logits(student, image, resized_size_px=input_px, original_size_px=size_px)
        assert_close(logits, case[f"out/{name}"], TOL)


@pytest.mark.parametrize(("flip", "name"), [(False, "pred"), (True, "pred_flip")])
def test_every_pixel_has_the_official_class(
    case: Case, student: Student, flip: bool, name: str
) -> None:
    input_px, original_px = sizes(case)
    logits = predict_logits(
        student, case.tensor("in/img"), resized_size_px=input_px, original_size_px=original_px
    )
    prediction = classes_of(logits.flip(-1) if flip else logits)
    np.testing.assert_array_equal(prediction[0].numpy(), case[f"out/{name}"])


def test_one_direct_resize_would_differ_where_the_reference_says(
    case: Case, student: Student
) -> None:
    _, original_px = sizes(case)

    def once(image: Tensor) -> Tensor:
        low = student(image)
        return torch.nn.functional.interpolate(low, original_px, mode="bilinear").argmax(1)

    with torch.inference_mode():
        different = once(case.tensor("in/img"))[0].numpy() != case["out/pred"]
    assert different.sum() == case.meta["pixels_different_if_single_resize"]
