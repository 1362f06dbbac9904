"""What parts of a student, and of its training, do not go together."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.train import test_query_head as query
from tests.train import test_rein_vfm as rein
from tests.train.example import EFFICIENTNET_LITE as LITE
from tests.train.example import SEMASK, train_config

FROZEN = partial(rein.config, Path("vit"))
QUERIES = partial(query.config, Path("vit"))
DISTANCE: dict[str, Any] = {"weight": 0.1, "classes": ["road"], "min_share": 0.5}


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (train_config, {"student": {"norm_eps": None}}, "has LayerNorms; set norm_eps to 1e-6"),
        (train_config, {"student": {"weights": "imagenet"}}, "set weights to random, a file"),
        (train_config, {"student": {"head": "mask2former"}}, "mask2former needs backbone rein_vfm"),
        (
            train_config,
            {"student": LITE | {"weights": "lite0.pth"}},
            "weights to imagenet or random",
        ),
        (train_config, {"student": LITE | {"norm_eps": 1e-6}}, "to null and drop_path to 0"),
        (train_config, {"student": LITE | {"semask": SEMASK}}, "semask needs the stages of a MiT"),
        (FROZEN, {"student": {"rein": None}}, "rein_vfm and the section rein belong together"),
        (FROZEN, {"student": {"weights": "random"}}, "no weights random; set weights to a folder"),
        (FROZEN, {"student": {"semask": SEMASK}}, "semask needs the stages of a MiT"),
        (FROZEN, {"compile": True}, "compile is not for student.backbone rein_vfm; set it to"),
        (FROZEN, {"feature_distance": DISTANCE}, "rein_vfm; set it to null"),
        (FROZEN, {"rein": {"tune": "lora", "rank": 0}}, "lora, which needs a rank of 1 or more"),
        (FROZEN, {"rein": {"from_block": 0, "views": 2}}, "no block comes before from_block 0"),
        (FROZEN, {"rein": {"views": 2}}, "self_training sees other images than the fixed views"),
        (QUERIES, {"student": {"head_channels": 48}}, "head_channels of a multiple of 32"),
        (QUERIES, {"student": {"dropout": 0.1}}, "dropout 0"),
        (QUERIES, {"self_training": {}}, "a weight for each pixel: set self_training to null"),
        (QUERIES, {"regularizer": {"on": ["source"]}}, r"and regularizer.on to \[\]"),
    ],
)
def test_what_does_not_go_together_is_refused(
    config: partial[Any], changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**changes)
