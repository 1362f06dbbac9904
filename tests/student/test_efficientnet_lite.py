import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from stages.efficientnet_lite import CHANNELS, STUDENTS, weight_file
from stages.prepare.pixels import MEAN, STD
from stages.student.student import Student, build_student
from stages.train.state import build_optimizer
from tests.train.example import EFFICIENTNET_LITE, train_config


def lite(**changes: str) -> Student:
    config = train_config(student=EFFICIENTNET_LITE | changes).student
    return build_student(config, num_classes=2, seed=3)


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


def test_batch_norms_of_the_backbone_do_not_decay() -> None:
    student = lite()
    optimizer = build_optimizer(student, None, train_config().optimizer)
    norms, others = (
        next(group for group in optimizer.param_groups if group["name"] == name)
        for name in ("backbone norms", "backbone")
    )
    found = [m for m in student.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {*norms["params"]} == {w for norm in found for w in (norm.weight, norm.bias)}
    assert (norms["weight_decay"], others["weight_decay"]) == (0, 0.01)
    assert {weight.ndim for weight in others["params"]} == {4}
