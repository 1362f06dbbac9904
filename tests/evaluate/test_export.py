"""Exported folders, loaded by others: transformers without this project, and our own loader."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.prepare.pixels import normalised_window, read_image
from stages.student.student import Student, load_student
from store.errors import CheckpointError, ConfigError, SSRError
from tests.evaluate.models import META, NAMES, exported, save_model
from tests.train.example import EFFICIENTNET_LITE

HRDA = {"detail_px": 32, "detail_weight": 0.1, "attention_channels": 16, "margin_px": 0}
SEMASK = {"window": 4, "attention": True, "aux_weight": 0.4}
PLAIN: dict[str, Any] = {"head": "mlp", "norm_eps": 1e-5}
METRICS: dict[str, Any] = {
    "miou": 26.38,
    "accuracy": 63.68,
    "mean_accuracy": 40.0,
    "images": 31,
    "content": "0123456789ab",
    "teacher_trained": False,
    "domain": "target",
    "split": "val",
    "iou": {"road": 70.0, "sky": 9.14, "car": None, "tree": 0.0},
}

# What a stranger types, where nothing but torch, transformers, safetensors and pillow is there.
STRANGER = """
import sys

ABSENT = {"pipeline", "stages", "store", "torchvision", "cv2", "kornia", "zarr", "dask", "xarray",
          "pyarrow", "pydantic", "segment_anything", "typer", "rich", "onnx", "onnxruntime"}

sys.modules.update(dict.fromkeys(ABSENT))  # neither imported nor found

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, SegformerForSemanticSegmentation

folder, photo, out = sys.argv[1:]
processor = AutoImageProcessor.from_pretrained(folder)
model, loading = SegformerForSemanticSegmentation.from_pretrained(folder, output_loading_info=True)
assert not model.training
image = Image.open(photo).convert("RGB")
inputs = processor(image, return_tensors="pt")
with torch.inference_mode():
    outputs = model(**inputs)
labels = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]
np.savez(
    out,
    pixels=inputs["pixel_values"].numpy(),
    logits=outputs.logits.numpy(),
    labels=labels.numpy(),
    names=[model.config.id2label[index] for index in range(model.config.num_labels)],
    problems=sorted(map(str, [*loading["missing_keys"], *loading["unexpected_keys"],
                              *loading["mismatched_keys"]])),
)
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Noise at a size that no stride divides."""
    pixels = np.random.default_rng(5).integers(0, 256, (75, 110, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def logits_of(student: Student, photo: Path) -> torch.Tensor:
    image = normalised_window(read_image(photo), 0, 0, 75, 110)
    with torch.inference_mode():
        logits: torch.Tensor = student(torch.from_numpy(image)[None])
    return logits


def test_a_plain_student_gives_a_stranger_our_logits(tmp_path: Path, photo: Path) -> None:
    student = save_model(tmp_path / "student", **PLAIN)
    result = exported(tmp_path)
    assert result.why_not_plain is None

    words = [str(tmp_path / "exported"), str(photo), str(tmp_path / "theirs.npz")]
    command = [sys.executable, "-I", "-c", STRANGER, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "theirs.npz")

    assert theirs["problems"].tolist() == []
    assert theirs["names"].tolist() == list(NAMES)
    pixels = normalised_window(read_image(photo), 0, 0, 75, 110)
    np.testing.assert_allclose(theirs["pixels"][0], pixels, rtol=0, atol=1e-6)
    ours = logits_of(student, photo).numpy()
    assert np.abs(ours).max() > 1  # else closeness says little
    np.testing.assert_allclose(theirs["logits"], ours, rtol=0, atol=1e-5)
    assert theirs["labels"].shape == (75, 110)
    assert len(np.unique(theirs["labels"])) > 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head": "mlp", "norm_eps": 1e-6}, "norm_eps is 1e-06, which transformers does not have"),
        ({"head": "daformer", "norm_eps": 1e-5}, "head is daformer"),
        (EFFICIENTNET_LITE | {"head": "mlp"}, "backbone is efficientnet_lite0"),
        ({**PLAIN, "semask": SEMASK}, "semask.attention is on"),
        ({**PLAIN, "hrda": HRDA}, "hrda is on"),
    ],
)
def test_another_student_says_why_and_loads_by_our_import(
    tmp_path: Path, photo: Path, changes: dict[str, Any], reason: str
) -> None:
    student = save_model(tmp_path / "student", **changes)
    result = exported(tmp_path)
    assert result.why_not_plain is not None
    assert reason in result.why_not_plain
    assert reason in (tmp_path / "exported/README.md").read_text()
    assert "model_type" not in json.loads((tmp_path / "exported/config.json").read_text())
    loaded = Student.from_pretrained(str(tmp_path / "exported"))
    assert torch.equal(logits_of(loaded, photo), logits_of(student, photo))


def test_semantic_layers_without_attention_are_not_handed_over(tmp_path: Path) -> None:
    student = save_model(tmp_path / "student", **PLAIN, semask={**SEMASK, "attention": False})
    assert exported(tmp_path).why_not_plain is None
    loaded = Student.from_pretrained(str(tmp_path / "exported"))
    assert loaded.semantic is None
    images = torch.randn(1, 3, 64, 96)
    assert torch.equal(loaded(images), student(images))


@pytest.mark.parametrize("changes", [PLAIN, {}])
def test_an_export_is_a_student_like_any_other(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_model(tmp_path / "student", **changes)
    exported(tmp_path)
    assert load_student(tmp_path / "exported")[1] == META
    exported(tmp_path, "exported", "twice")
    for file in ("model.safetensors", "config.json", "README.md"):
        once, twice = (tmp_path / folder / file for folder in ("exported", "twice"))
        assert once.read_bytes() == twice.read_bytes()


def write_metrics(run_folder: Path, **changes: object) -> None:
    digest = json.loads((run_folder / "student/config.json").read_text())["weights_sha256"]
    metrics = {**METRICS, "student": digest[:12], **changes}
    (run_folder / "metrics.json").write_text(json.dumps(metrics))


def test_the_card_tells_metrics_data_and_licences(tmp_path: Path) -> None:
    recipe = {
        "crop_px": 256,
        "self_training": {"ema_decay": 0.99},
        "masking": None,
        "regularizer": {"on": ["source", "mixed"]},
    }
    data = META["data"] | {"target": {**META["data"]["target"], "labelled": 8}}
    meta = {**META, "data": data, "recipe": recipe, "weights": "nvidia/mit-b5"}
    save_model(tmp_path / "student", meta=meta)
    write_metrics(tmp_path)
    result = exported(tmp_path, ".")  # a run's folder will do
    assert result.why_no_metrics is None
    card = (tmp_path / "exported/README.md").read_text()
    for text in (
        "On target/val, 31 images, in percent: mean IoU 26.38, pixel accuracy 63.68.",
        "| sky | 9.14 |\n| car | - |",
        "- source: camvid, 305 images, labelled",
        "- target: camvid, 62 images, 8 of them labelled",
        '"ema_decay": 0.99',
        "UNTRAINED TEACHER",
        "nvidia/mit-b5. MiT's ImageNet weights are NVIDIA's, for non-commercial use",
        "- Data: CamVid, for research.",
        "| 2 | car | #00008e |",
        "at least 256 px",
    ):
        assert text in card


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": "0123456789ab"}, "is of another student"),
        ({"student": None}, "of an earlier version"),
    ],
)
def test_metrics_of_other_weights_are_left_out(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    save_model(tmp_path / "student")
    write_metrics(tmp_path, **changes)
    result = exported(tmp_path)
    assert result.why_no_metrics is not None
    assert says in result.why_no_metrics
    card = (tmp_path / "exported/README.md").read_text()
    assert "was not evaluated" in card
    assert "26.38" not in card


@pytest.mark.parametrize(
    ("student", "how", "error", "says"),
    [
        ({}, {"out": "student"}, ConfigError, "is the student itself"),
        ({"meta": {}}, {}, CheckpointError, "names no classes and colours for the 4 logits"),
        ({"meta": {"classes": ["a"], "palette": [[0, 0, 0]]}}, {}, CheckpointError, "names no cl"),
        ({"hrda": HRDA}, {"onnx": True}, ConfigError, "no ONNX graph holds; export it without --o"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    tmp_path: Path,
    student: dict[str, Any],
    how: dict[str, Any],
    error: type[SSRError],
    says: str,
) -> None:
    save_model(tmp_path / "student", **student)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(error, match=says):
        exported(tmp_path, **how)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
