"""ONNX twins: onnxruntime's logits are the student's, at sizes that the export has not seen."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stages.evaluate.export import TOLERANCE, compare_twins, export_onnx
from stages.student.student import Student
from store.errors import CheckpointError
from tests.evaluate.models import NAMES, exported, lively_student, save_model, student_config
from tests.train.example import EFFICIENTNET_LITE

pytestmark = pytest.mark.slow  # the exporter takes its time

# batch, height, width
SHAPES = ((1, 32, 32), (3, 64, 64), (1, 128, 224), (2, 90, 61), (1, 360, 480))

KINDS: dict[str, dict[str, Any]] = {
    "daformer": {"head": "daformer", "norm_eps": 1e-5},
    "mlp": {"head": "mlp", "norm_eps": 1e-5},
    "semask": {
        "head": "mlp",
        "norm_eps": 1e-5,
        "semask": {"window": 4, "attention": True, "aux_weight": 0.4},
    },
    "lite": EFFICIENTNET_LITE | {"head": "mlp"},
}


@cache
def student_and_twin(kind: str) -> tuple[Student, bytes]:
    student = lively_student(student_config(**KINDS[kind]))
    return student, export_onnx(student, NAMES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_twin_has_the_students_logits(kind: str, shape: tuple[int, int, int]) -> None:
    student, twin = student_and_twin(kind)
    batch, *size = shape
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(twin, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"pixel_values": images.numpy()})
    with torch.inference_mode():
        ours = student(images).numpy()
    largest = np.abs(ours).max()
    assert largest > 1
    tolerance = max(1e-4, 1e-5 * largest)  # what float32 leaves of a student's own logits
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance)
    ranked = np.sort(ours, axis=1)
    clear = ranked[:, -1] - ranked[:, -2] > tolerance
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(theirs.argmax(1)[clear], ours.argmax(1)[clear])


def test_a_twin_is_valid_and_names_its_classes() -> None:
    model = onnx.load_model_from_string(student_and_twin("mlp")[1])
    onnx.checker.check_model(model, full_check=True)
    assert json.loads({p.key: p.value for p in model.metadata_props}["classes"]) == list(NAMES)
    (pixels,) = model.graph.input
    sides = [side.dim_param or side.dim_value for side in pixels.type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "height", "width"]


def test_the_twin_of_another_student_is_refused() -> None:
    _, twin = student_and_twin("daformer")
    other = lively_student(student_config(norm_eps=1e-5), seed=1)
    with pytest.raises(CheckpointError, match="the ONNX twin differs from the student by") as error:
        compare_twins(other, twin)
    assert "\n" not in str(error.value)


def test_a_twin_is_written_beside_the_student_with_how_near_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "student", norm_eps=1e-5)
    twin = student_and_twin("daformer")[1]  # of equal weights
    monkeypatch.setattr("stages.evaluate.export.export_onnx", lambda *given: twin)
    difference = exported(tmp_path, onnx=True).onnx_difference
    assert difference is not None
    assert 0 < difference < TOLERANCE
    assert (tmp_path / "exported/model.onnx").read_bytes() == twin
    assert f"{difference:.1e}" in (tmp_path / "exported/README.md").read_text()
