"""Checks of Python, PyTorch and DVC: what has nothing to do with the params."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from pipeline.devices import CPU, device_here
from pipeline.doctor.finding import Finding, ok, problem, warning

PATIENCE_S: Final = 60.0
"""For an import in another process."""


def pytorch() -> Iterator[Finding]:
    """Import PyTorch and name the device that it would use."""
    try:
        import torch
    except Exception as error:  # a damaged or mixed installation can fail in any way
        why = f"{type(error).__name__}: {error}"[:160]
        yield problem(f"PyTorch cannot be imported ({why}): install it again")
        return
    version = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        yield ok(f"{version}, GPU {', '.join(names)}")
    elif (gpu := device_here()) != CPU:
        yield warning(
            f"{version} sees no GPU, but there is {gpu}: install a build of PyTorch for its driver",
        )
    else:
        yield ok(f"{version}, no GPU, {torch.get_num_threads()} CPU threads")


def torchvision() -> Iterator[Finding]:
    """Import torchvision, in another process, as one that does not fit PyTorch may end it.

    This project never needs it, but transformers imports one that is installed; a broken one ends
    `ssr train` with a traceback of theirs.
    """
    if find_spec("torchvision") is None:
        yield ok("torchvision is not installed, and not needed")
        return
    program = (sys.executable, "-P", "-c", "import torchvision")  # -P: none of this folder
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        why = f"torchvision was not imported within {PATIENCE_S:.0f} s: try again"
        yield warning(why)
        return
    if done.returncode == 0:
        yield ok("torchvision can be imported (it is not needed)")
    else:
        why = (done.stderr.strip().splitlines() or ["it died"])[-1]
        yield problem(
            f"torchvision is installed but broken, and breaks transformers ({why[:120]}): "
            "`pip uninstall torchvision`, it is not needed",
        )


def dvc() -> Iterator[Finding]:
    """Check what `dvc repro` needs, and whether a killed one left a damaged lock."""
    here = Path.cwd()
    if not Path("dvc.yaml").is_file():
        yield warning(
            "no dvc.yaml in this folder: `dvc repro` needs a clone of the repository, "
            "the commands of `ssr` do not",
        )
        return
    home = next((p for p in (here, *here.parents) if (p / ".dvc").is_dir()), None)
    if home is None:
        yield warning("dvc.yaml, but no .dvc folder: run `dvc init` in the git repository")
        return
    settings = home / ".dvc" / "config"
    text = settings.read_text(errors="replace") if settings.is_file() else ""
    alone = re.search(r"^\s*no_scm\s*=\s*true", text, flags=re.IGNORECASE | re.MULTILINE)
    if not alone and not any((p / ".git").exists() for p in (home, *home.parents)):
        yield warning(f"{home} is not a git repository: run `git init`, or `dvc init -f --no-scm`")
        return
    found = [*_damage(Path("dvc.lock")), *_locks(home / ".dvc" / "tmp" / "rwlock")]
    yield from found or [ok("DVC: dvc.yaml, .dvc and git are there")]


def _damage(path: Path) -> Iterator[Finding]:
    """Look for what a merge, or a hand, left in the file where DVC notes what it ran."""
    if not path.is_file():
        return
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    text = path.read_text(errors="replace")
    if re.search(r"^(<{7}|>{7}) ", text, flags=re.MULTILINE):
        yield problem(
            f"{path} holds a conflict of git: take one side with `git checkout --ours {path}`, or "
            "--theirs, then run `dvc repro`"
        )
        return
    try:
        sound = isinstance(YAML(typ="safe").load(text)["stages"], dict)
    except (YAMLError, ValueError, RecursionError, TypeError, KeyError):
        sound = False
    if not sound:
        yield problem(f"{path} is damaged: restore it, or delete it, then `dvc repro`")


def _locks(path: Path) -> Iterator[Finding]:
    """Look for a damaged note of who is at work; DVC itself says who holds a sound one."""
    if not path.is_file():
        return
    try:
        sound = isinstance(json.loads(path.read_text(errors="replace")), dict)
    except ValueError:
        sound = False
    if not sound:
        yield problem(f"{path} was left damaged by a killed run: delete it when no DVC is running")
