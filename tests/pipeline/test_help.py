"""Help is complete, every example in it can be typed, and it costs no heavy import."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.core
from PIL import Image

from pipeline.cli import app
from tests.pipeline.test_handover import official_checkpoint
from tests.pipeline.workplace import REPOSITORY, ssr, the_store

GROUP = typer.main.get_command(app)
assert isinstance(GROUP, typer.core.TyperGroup)
COMMANDS = GROUP.commands
HEAVY = {"torch", "zarr", "dask", "xarray", "transformers", "pyarrow", "numpy", "rich"}

REFUSED = {
    "restyle": "--png needs section restyle",
    "restyle-fit": "restyle.mixer is not of kind issa",
    "embed": "sam_vit_b_01ec64.pth: no such weight file",  # it must be downloaded
    "doctor": "train.device is cuda",
    "probe": "[train, val] in embed.splits",
}
"""Examples that need what is not here: they say what."""

SHOW_HELP = """
import contextlib, io, sys
from pipeline.cli import app
for command in sys.argv[1:]:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        app(["--help"] if command == "ssr" else [command, "--help"], prog_name="ssr")
print(*sys.modules)
"""


def example(command: str) -> list[str]:
    """The words of a command's example after `ssr`."""
    found = re.search(r"^Example: ssr (.+)$", COMMANDS[command].help or "", flags=re.MULTILINE)
    assert found, f"ssr {command} has no example"
    return shlex.split(found[1])


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW_HELP, "ssr", *COMMANDS],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
    )
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.slow
@pytest.mark.usefixtures("photos")
@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_runs(command: str) -> None:
    words = [
        word.replace("data/features/source/1a2b3c4d.zarr", str(the_store("source")))
        .replace("/data/gta5", "photos" if command == "prepare" else "photos/day")
        .replace("--onnx", "--help")  # the exporter takes its time
        for word in example(command)
    ]
    if command in ("metrics", "compare", "report"):
        shutil.copytree("runs", "daformer")
        shutil.copytree("daformer", "runs/daformer")
        shutil.move("daformer", "runs/ssr")
    if command == "import":
        official_checkpoint(Path("daformer.pth"), Path("runs/student"))
        words[words.index("--out") + 1] = "imported"
    if command == "init":
        Path("params.yaml").unlink()
    if command == "predict":
        Path("more").mkdir()
        with Image.open("photos/day/images/00000.png") as image:
            image.save("more/a.jpg")
    outcome = ssr(*words)
    if command in REFUSED and outcome.code:
        assert outcome.code == 2
        assert REFUSED[command] in outcome.out + outcome.err
    else:
        assert (outcome.code, outcome.err) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_and_every_number_bounded(command: str) -> None:
    for option in COMMANDS[command].params:
        assert getattr(option, "help", None), f"{command} {option.name}"
        if vars(option)["type_descriptor"].annotation in (int, float):
            assert None not in (vars(option)["min"], vars(option)["max"]), option.name
