from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from pydantic import ValidationError
from torch import Tensor, nn

from stages.efficientnet_lite import CHANNELS, STUDENTS, weight_file
from stages.prepare.pixels import MEAN, STD
from stages.student.config import StudentConfig
from stages.student.saved import save_student
from stages.student.student import Student, build_student
from stages.train.state import build_optimizer
from tests.train.example import EFFICIENTNET_LITE, train_config


def config(**changes: Any) -> StudentConfig:  # noqa: ANN401 - any value of a params file
    return train_config(student=EFFICIENTNET_LITE | changes).student


def lite(**changes: Any) -> Student:  # noqa: ANN401
    return build_student(config(**changes), num_classes=2, seed=3)


def normalised(colours: Tensor, mean: object, std: object) -> Tensor:
    return (colours - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize("backbone", STUDENTS)
def test_stages_are_those_of_the_package_on_its_own_pixels(backbone: str) -> None:
    size = STUDENTS[backbone]
    path = weight_file(size)
    assert path is not None
    official = EfficientNet.from_name(f"efficientnet-{size}", image_size=128).eval()
    official.load_state_dict(torch.load(path, weights_only=True))
    colours = torch.randint(256, (2, 3, 128, 128), generator=torch.Generator().manual_seed(0))
    student = lite(backbone=backbone, weights="imagenet").eval()
    with torch.inference_mode():
        features = student.features(normalised(colours, MEAN, STD))
        at = normalised(colours, (127.0,) * 3, (128.0,) * 3)
        at, maps = official._swish(official._bn0(official._conv_stem(at))), {}
        for block in official._blocks:
            at = block(at)
            maps[128 // at.shape[-1]] = at  # the last one of each stride
    assert [map_.shape[1] for map_ in features] == list(CHANNELS[size]) == list(student.channels)
    for stride, found in zip((4, 8, 16, 32), features, strict=True):
        torch.testing.assert_close(found, maps[stride], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": "lite0.pth"}, "takes no files; set weights to imagenet or random"),
        (
            {"norm_eps": 1e-6},
            "neither LayerNorms nor stochastic depth to set; set norm_eps to null",
        ),
        ({"backbone": "mit_b0"}, "mit_b0 has LayerNorms; set norm_eps to 1e-6 or 1e-5"),
        ({"backbone": "mit_b0", "weights": "imagenet"}, "set weights to that, as nvidia/mit-b5"),
    ],
)
def test_keys_of_another_backbone_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**changes)


def test_a_saved_student_comes_back_bit_for_bit(tmp_path: Path) -> None:
    student, images = lite(), torch.randn(2, 3, 64, 96)
    student(images)  # batch-norm statistics move
    save_student(student, tmp_path, config=config(), meta={})
    loaded = Student.from_pretrained(tmp_path)
    with torch.inference_mode():
        assert torch.equal(loaded(images), student.eval()(images))
    assert '"backbone": "efficientnet_lite0"' in (tmp_path / "config.json").read_text()


def test_batch_norms_of_the_backbone_do_not_decay() -> None:
    student = lite()
    optimizer = build_optimizer(student, None, train_config().optimizer)
    groups = {group["name"]: group for group in optimizer.param_groups}
    norms = [m for m in student.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    found = {id(weight) for weight in groups["backbone norms"]["params"]}
    assert found == {id(weight) for norm in norms for weight in (norm.weight, norm.bias)}
    assert (groups["backbone norms"]["weight_decay"], groups["backbone"]["weight_decay"]) == (
        0,
        0.01,
    )
    assert {weight.ndim for weight in groups["backbone"]["params"]} == {4}
