"""What `make demo` runs: the pipeline, then the arms beside it, as `pipeline.arms` has them."""

import shlex

from pipeline.arms import overrides_of
from tests.pipeline.workplace import REPOSITORY

MAKEFILE = (REPOSITORY / "Makefile").read_text()


def demo() -> list[list[str]]:
    """The words of each command of the demo."""
    recipe = MAKEFILE.partition("\ndemo:")[2].partition("\n\n")[0].replace("\\\n", "")
    return [shlex.split(line, comments=True) for line in recipe.splitlines()[1:]]


def test_the_demo_runs_the_pipeline_two_arms_beside_it_and_a_comparison() -> None:
    commands = [[word for word in words if "=" not in word and word != "-S"] for words in demo()]
    assert commands == [
        ["dvc", "repro"],
        ["ssr", "train", "--out", "runs/daformer"],
        ["ssr", "evaluate", "--out", "runs/daformer"],
        ["ssr", "train", "--out", "runs/guided"],
        ["ssr", "evaluate", "--out", "runs/guided"],
        ["ssr", "compare", "runs/daformer", "runs", "runs/guided"],
    ]


def test_the_demo_trains_the_arms_that_it_names() -> None:
    for arm in ("daformer", "guided"):
        (train,) = [
            words for words in demo() if words[:4] == ["ssr", "train", "--out", f"runs/{arm}"]
        ]
        given = dict(word.split("=", 1) for word in train if "=" in word)
        wanted = dict(value.split("=", 1) for value in overrides_of(arm))
        assert given.pop("train.validate_every") == "0"  # changes no weight, and saves time
        assert given.keys() == wanted.keys()
        for key, value in wanted.items():
            assert given[key] == value or float(given[key]) == float(value)
