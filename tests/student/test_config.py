"""What parts of a student, and of its training, do not go together."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.train import test_query_head as query
from tests.train import test_rein_vfm as rein
from tests.train.example import EFFICIENTNET_LITE, SEMASK, train_config

DISTANCE: dict[str, Any] = {"weight": 0.1, "classes": ["road"], "min_share": 0.5}


def refuse(says: str, builds: Any, *given: Path, **changes: Any) -> None:  # noqa: ANN401
    with pytest.raises(ValidationError, match=says):
        builds(*given, **changes)


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (EFFICIENTNET_LITE | {"weights": "lite0.pth"}, "lite0.pth; set imagenet or random"),
        (EFFICIENTNET_LITE | {"norm_eps": 1e-6}, "other backbones.* to null and drop_path to 0"),
        (EFFICIENTNET_LITE | {"semask": SEMASK}, "semask needs the stages of a MiT"),
        ({"norm_eps": None}, "norm_eps to 1e-6 or 1e-5 with a MiT"),
        ({"weights": "imagenet"}, "set random, a file or a Hugging Face id"),
        ({"head": "mask2former"}, "mask2former needs backbone rein_vfm"),
    ],
)
def test_keys_of_another_backbone_are_refused(student: dict[str, Any], says: str) -> None:
    refuse(says, train_config, student=student)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": {"rein": None}}, "rein_vfm and the section rein belong together"),
        ({"student": {"weights": "random"}}, "takes no weights random; set a folder"),
        ({"student": {"semask": SEMASK}}, "semask needs the stages of a MiT"),
        ({"compile": True}, "compile is not for student.backbone rein_vfm; set it to false"),
        ({"feature_distance": DISTANCE}, "rein_vfm; set it to null"),
        ({"rein": {"tune": "lora", "rank": 0}}, "lora, which needs a rank of 1 or more"),
        ({"rein": {"from_block": 0, "views": 2}}, "no block comes before from_block 0"),
        ({"rein": {"views": 2}}, "self_training sees other images than the fixed views"),
    ],
)
def test_what_does_not_go_with_a_frozen_network_is_refused(
    changes: dict[str, Any], says: str
) -> None:
    refuse(says, rein.config, Path("vit"), **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": {"head_channels": 48}}, "head_channels of a multiple of 32"),
        ({"student": {"dropout": 0.1}}, "dropout 0"),
        ({"self_training": {}}, "without a weight for each pixel: set self_training to null"),
        ({"regularizer": {"on": ["source"]}}, r"and regularizer.on to \[\]"),
    ],
)
def test_what_does_not_go_with_queries_is_refused(changes: dict[str, Any], says: str) -> None:
    refuse(says, query.config, Path("vit"), **changes)
