from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from stages.fields import Section
from stages.train import config
from tests.train.example import GUIDED, HRDA, MASKING, SEMASK, train_config

DISTILL = {
    "kind": "query",
    "steps": 3,
    "levels": None,
    "loss": "mse",
    "freeze": 0,
    "keep": 0.0,
}


def sections() -> list[type[BaseModel]]:
    found = [value for value in vars(config).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, Section)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"student": {"semask": {**SEMASK, "window": 17}}}, "finest map, 16 cells"),
        ({"student": {"semask": {**SEMASK, "window": 9}, "hrda": HRDA}}, "finest map, 8 cells"),
        ({"student": {"hrda": {**HRDA, "detail_px": 96}}}, "detail_px 96 is more than crop_px 64"),
        ({"student": {"hrda": HRDA}, "crop_px": 32}, "raise crop_px to 64 or more"),
        ({"student": {"hrda": HRDA}, "regularizer": GUIDED}, "has a head of its own for one scale"),
        ({"regularizer": {"on": ["source", "source"]}}, "names one twice"),
        ({"regularizer": {"levels": [None] * 4}}, "set regularizer.on: [] instead"),
        ({"distill": {**DISTILL, "levels": [None] * 4}}, "set distill: null instead"),
        ({"iterations": 0}, "there is nothing to train"),
        ({"batch_size": 4, "micro_batch_size": 3}, "is not a divisor of batch_size 4"),
        ({"compile": True, "activation_checkpointing": True}, "chooses itself"),
        (
            {"self_training": None, "regularizer": {"on": []}, "masking": MASKING},
            "masking needs self_training",
        ),
    ],
)
def test_values_out_of_range_or_against_each_other_are_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        train_config(**changes)
    fault, *_ = caught.value.errors()
    where = ".".join(map(str, fault["loc"]))
    assert says in f"{where}: {fault['msg']}"


@pytest.mark.parametrize("section", sections(), ids=lambda section: section.__name__)
def test_a_boolean_is_no_number_in_any_section(section: type[BaseModel]) -> None:
    for name, field in section.model_fields.items():
        if field.annotation is bool:
            continue
        with pytest.raises(ValidationError) as caught:
            section.model_validate({name: True})
        assert name in [
            error["loc"][0] for error in caught.value.errors() if error["type"] != "missing"
        ]
