"""Every command says what comes first where there is nothing yet, in one line, and writes nothing.

The first table is of an empty folder, the second of one where `ssr init` was run, the third of one
where `ssr prepare` was run as well.
"""

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


def test_the_table_has_every_command_that_needs_something() -> None:
    assert {words.split()[0] for words in EMPTY} == COMMANDS.keys() - {"init"}


@pytest.mark.parametrize("words", EMPTY)
def test_in_an_empty_folder_a_command_says_what_comes_first(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(words, *EMPTY[words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", AFTER_INIT)
def test_after_init_a_command_says_what_comes_first(words: str, workplace: Path) -> None:
    assert_refused(words, *AFTER_INIT[words])
    assert [path.name for path in workplace.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("words", AFTER_PREPARE)
def test_after_prepare_a_command_says_what_comes_first(words: str, workplace: Path) -> None:
    demand("prepare")
    assert_refused(words, *AFTER_PREPARE[words])
    assert not (workplace / "runs").exists()
    assert not (workplace / "data" / "features").exists()
