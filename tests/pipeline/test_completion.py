"""The shell completes commands, options and the values of options."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from pipeline.cli import app
from pipeline.completion import keys
from pipeline.presets import ARMS, PRESETS
from stages.prepare.datasets import CLASS_TABLES
from tests.pipeline.workplace import SMALLEST, change_params, write_params

STORE = "data/features/source/1a2b3c4d.zarr"


def offered(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Press Tab at the end of a line, in bash."""
    words = line.split()
    position = len(words) if line.endswith(" ") else len(words) - 1
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(position))
    monkeypatch.setenv("_SSR_COMPLETE", "complete_bash")
    capsys.readouterr()
    with mock.patch.object(sys, "argv", ["ssr"]), pytest.raises(SystemExit):
        app(prog_name="ssr")
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("ssr pre", ["prepare", "predict"]),
        ("ssr init --pre", ["--preset"]),
        ("ssr init --preset ", list(PRESETS)),
        ("ssr init --preset gta5-", [name for name in PRESETS if name.startswith("gta5-")]),
        ("ssr init --arm ", list(ARMS)),
        ("ssr plan --device a1", ["a100"]),
        ("ssr evaluate --weights ", ["student", "ema"]),
        ("ssr predict runs photos --device c", ["cpu", "cuda"]),
        ("ssr import mit_b5.pth --classes ", list(CLASS_TABLES)),
        ("ssr convert --codec int", ["int8", "int8-zstd"]),
        ("ssr embed -S prepare.source.se", ["prepare.source.seed="]),
        ("ssr inspect data/", [STORE]),
        ("ssr verify ", [STORE]),
    ],
)
def test_tab_offers_what_can_be_typed(
    line: str,
    names: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_params(tmp_path, SMALLEST)
    (tmp_path / STORE).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert offered(line, capsys, monkeypatch) == names


@pytest.mark.parametrize("text", [None, "prepare: [\n", "just words\n"])
def test_tab_is_silent_where_the_params_cannot_be_read(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("params.yaml").write_text(text)
    assert keys() == []


def test_the_keys_are_those_of_the_params_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_params(tmp_path, SMALLEST)
    monkeypatch.chdir(tmp_path)
    assert {"train.seed=", "train.student.weights=", "store.codec="} <= set(keys())
    change_params(tmp_path, {"train.self_training": None})
    assert "train.self_training=" in keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("ssr")
    done = subprocess.run(
        [command, "--show-completion", shell],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            # typer would look for the shell that this was started from, which may be any
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "_SSR_COMPLETE=complete" in done.stdout
