"""Students on disk whose logits tell classes apart."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stages.evaluate.export import ExportResult, run
from stages.student.config import StudentConfig
from stages.student.saved import save_student
from stages.student.student import Student, build_student, seeded

NAMES = ("road", "sky", "car", "tree")
PALETTE = ((128, 64, 128), (70, 130, 180), (0, 0, 142), (107, 142, 35))
META: dict[str, Any] = {
    "classes": list(NAMES),
    "palette": [list(color) for color in PALETTE],
    "teacher_trained": False,
    "weights": "random",
    "data": {
        "source": {"train_images": 305, "kind": "camvid", "fit_px": None},
        "target": {"train_images": 62, "kind": "camvid", "fit_px": None},
    },
}


def student_config(**changes: Any) -> StudentConfig:  # noqa: ANN401 - any value of a params file
    return StudentConfig.model_validate(
        {
            "backbone": "mit_tiny",
            "weights": "random",
            "norm_eps": 1e-6,
            "drop_path": 0.1,
            "head": "daformer",
            "head_channels": 16,
            "dropout": 0.1,
            **changes,
        }
    )


def lively_student(config: StudentConfig, seed: int = 0) -> Student:
    """A student as after some training: moved statistics, logits of several units."""
    student = build_student(config, num_classes=len(NAMES), seed=seed)
    with seeded(seed), torch.no_grad():
        student(torch.randn(2, 3, 64, 96))  # batch norm
        for module in student.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
        for layer in student.semantic or ():
            if layer.attends:
                layer.get_parameter("attentions.0.gamma").fill_(1.0)
    classifier = student.head.get_submodule("classifier")
    assert isinstance(classifier, nn.Conv2d)
    with torch.no_grad():
        classifier.weight *= 100
    return student.eval()


def save_model(
    folder: Path,
    *,
    meta: dict[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,  # noqa: ANN401 - any value of a params file
) -> Student:
    config = student_config(**changes)
    student = lively_student(config, seed)
    save_student(student, folder, config=config, meta=META if meta is None else meta)
    return student


def exported(
    folder: Path, model: str = "student", out: str = "exported", *, onnx: bool = False
) -> ExportResult:
    """Export a model in a folder to another folder in it."""
    return run(model=folder / model, out=folder / out, onnx=onnx)
