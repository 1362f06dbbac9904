"""Mistakes in params.yaml and on the command line, as a person meets them; see also test_params."""

from pathlib import Path

import pytest

from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    identifier,
    params,
    remove,
)

CASES = [
    Case(
        "no params file",
        "prepare",
        ("params.yaml", "no such file", "ssr init"),
        remove("params.yaml"),
    ),
    Case(
        "params file elsewhere",
        "train --params other.yaml",
        ("other.yaml", "no such file", "ssr init"),
    ),
    Case("params file is a folder", "prepare --params photos", ("photos", "ssr init")),
    Case(
        "unknown key",
        "train",
        ("params.yaml", "train.iteratons", "did you mean train.iterations?"),
        params(train={"iteratons": 10}),
    ),
    Case(
        "unknown key of a target's splits",
        "prepare",
        ("prepare.target.splits.vall", "did you mean prepare.target.splits.val?"),
        params(prepare={"target.splits.vall": "dusk"}),
    ),
    Case(
        "domain that training reads is not to be embedded",
        "embed",
        ("params.yaml: embed.domains ['source'] lacks target", "add it there"),
        params(embed={"domains": ["source"]}),
    ),
    Case(
        "store in the home of nobody", "inspect ~nosuchuser/x.zarr", ("~nosuchuser", "no such user")
    ),
    Case(
        "photos in the home of nobody",
        "predict runs ~nosuchuser/x --out predicted",
        ("~nosuchuser", "no such user"),
    ),
    Case("set without a value", "train -S train.seed", ("--set train.seed", "section.key=value")),
    Case("unknown preset", "init --preset drwan", ("drwan", "drawn, camvid-day-to-dusk")),
    Case("unknown arm", "init --preset drawn --arm daformr", ("daformr", "daformer, daformer-mic")),
    Case("init over an edited file", "init --preset drawn", ("params.yaml", "edited", "--force")),
]


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_mistake_in_the_parameters_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)
