"""Every command says what comes first where there is nothing yet, and writes nothing."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.pipeline.mistakes import assert_refused
from tests.pipeline.test_help import COMMANDS
from tests.pipeline.workplace import demand

STORE = "data/features/source/1a2b3c4d.zarr"
NO_PARAMS = ("params.yaml: there is no such file", "`ssr init --preset drawn` writes one")
NO_IMAGES = ("data/manifest.parquet", "run `ssr prepare`")
NO_STORE = (f"no feature store at {STORE}", "run `ssr embed`")
NO_STUDENT = ("runs: there is no such folder", "`ssr train`")

EMPTY = {
    "classes photos": ("photos", "no such folder"),
    "prepare": NO_PARAMS,
    "plan": NO_PARAMS,
    "restyle-fit": NO_PARAMS,
    "restyle": NO_PARAMS,
    "embed": NO_PARAMS,
    "label": NO_PARAMS,
    "train": NO_PARAMS,
    "evaluate": NO_PARAMS,
    "metrics": ("runs/metrics.json", "no evaluation yet", "`ssr evaluate --out runs`"),
    "compare runs runs/daformer": (
        "runs/metrics.json",
        "no evaluation yet",
        "`ssr evaluate --out runs`",
    ),
    "report": NO_PARAMS,
    "doctor": ("problems: 1, see above",),
    "export runs --out exported": NO_STUDENT,
    "predict runs photos --out predicted": ("photos: there is no such file or folder",),
    "import mit_b5.pth --out student": ("mit_b5.pth does not exist", "download it"),
    f"inspect {STORE}": NO_STORE,
    f"verify {STORE}": NO_STORE,
    f"convert {STORE} --codec int8": NO_STORE,
    "probe": NO_PARAMS,
}
"""What is typed -> parts of what is said."""

AFTER_INIT = {
    "plan": NO_IMAGES,
    "embed": NO_IMAGES,
    "train": NO_IMAGES,
    "evaluate": NO_IMAGES,
    "report": ("nothing to report yet", "`ssr prepare`"),
    "export runs --out exported": NO_STUDENT,
    "predict runs params.yaml --out predicted": NO_STUDENT,
    f"inspect {STORE} --png picture.png": NO_STORE,
    f"verify {STORE} --repair": NO_IMAGES,
    f"verify {STORE} --online 2": NO_IMAGES,
}

AFTER_PREPARE = {
    "train": ("data/index.json", "run `ssr embed`"),
    "train -S train.regularizer.levels=[stride16,stride16,stride16,stride16]": ("embed.levels",),
    "evaluate": NO_STUDENT,
}


PLACES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "an empty folder": EMPTY,
    "after init": AFTER_INIT,
    "after prepare": AFTER_PREPARE,
}


def test_the_table_has_every_command_that_needs_something() -> None:
    assert {words.split()[0] for words in EMPTY} == COMMANDS.keys() - {"init"}


@pytest.mark.parametrize(
    ("place", "words"), [(place, words) for place, table in PLACES.items() for words in table]
)
def test_a_command_says_what_comes_first(place: str, words: str, workplace: Path) -> None:
    if place == "an empty folder":
        Path("params.yaml").unlink()
    if place == "after prepare":
        demand("prepare")
    before = set(workplace.rglob("*"))
    assert_refused(words, *PLACES[place][words])
    assert set(workplace.rglob("*")) == before
