from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.prepare.stage import PrepareConfig
from tests.prepare.conftest import drawn_config, folder_config

ROOT = Path("data")
LANE = {"name": "lane", "color": [1, 2, 3], "ids": [0]}


def published(kind: str, **keys: object) -> dict[str, Any]:
    return {"kind": kind, "root": str(ROOT), "fit_px": None} | keys


def validate(source: dict[str, Any], target: dict[str, Any] | None = None) -> PrepareConfig:
    return PrepareConfig.model_validate(
        {"source": source, "target": target, "pad_to_px": 32, "on_bad_image": "fail"}
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (drawn_config(ROOT, kind="drwan"), "drwan"),
        (drawn_config(ROOT, styl="day"), "styl"),
        (drawn_config(ROOT, style="dawn"), "'day', 'dusk', 'fog', 'night' or 'wide'"),
        (drawn_config(ROOT, style="dusk", strength=1.5), "less than or equal to 1"),
        (drawn_config(ROOT, strength=0.5), "set it to 1 with day"),
        (drawn_config(ROOT, style="wide", strength=0.5), "set it to 1 with wide"),
        (drawn_config(ROOT, train=0), "greater than or equal to 1"),
        (drawn_config(ROOT, fit_px=[0, 5]), "greater than or equal to 1"),
        (folder_config(ROOT, train_images="/abs"), "inside root"),
        (folder_config(ROOT, train_images="../x"), "inside root"),
        (folder_config(ROOT, val_labels=None), "set both or neither"),
        (folder_config(ROOT, val_share=0.1), "set it to null where val_images is given"),
        (folder_config(ROOT, train_labels=None), "source is what labels come from"),
        (folder_config(ROOT, labelled=2), "source.labelled is a key of the target"),
        (folder_config(ROOT, ignore_ids=[7]), "label id 7 is used twice"),
        (folder_config(ROOT, ignore_ids=[256]), "less than or equal to 255"),
        (folder_config(ROOT, classes=[LANE, LANE]), "class name 'lane' is used twice"),
        (folder_config(ROOT, ignore_colors=[[70, 70, 70]]), "is used twice"),
        (folder_config(ROOT, classes=[LANE]), "at least 2 items"),
        (published("acdc", conditions=["sun"]), "'fog', 'night', 'rain' or 'snow'"),
        (published("acdc", conditions=[]), "at least 1 item"),
        (published("dark_zurich", train_times=["night"]), "source is what labels come from"),
    ],
)
def test_wrong_values_are_refused(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        validate(source)
