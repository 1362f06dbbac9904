"""A repository of its own, with git and DVC, in which `dvc repro` runs the pipeline."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipeline.workplace import REPOSITORY, write_params

VERSIONED = ("dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
CODE = ("stages", "store", "pipeline")
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Repro:
    """What a `dvc repro` did."""

    code: int
    ran: list[str]
    skipped: list[str]  # which DVC found unchanged
    out: str
    err: str


def make_repository(folder: Path, params: Mapping[str, Any]) -> None:
    """Copy what git holds of this project; the params are the smallest ones."""
    for name in VERSIONED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    for name in CODE:
        without_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=without_caches)
    write_params(folder, params)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True, env=environment(folder))


def repro(folder: Path, *targets: str) -> Repro:
    """Run `dvc repro` to its end."""
    done = subprocess.run(
        ["dvc", "repro", *targets],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return Repro(
        code=done.returncode,
        ran=re.findall(r"^Running stage '(\w+)':", done.stdout, flags=re.MULTILINE),
        skipped=re.findall(r"^Stage '(\w+)' didn't change, skipping", done.stdout, re.MULTILINE),
        out=done.stdout,
        err=done.stderr,
    )


def demand_repro(folder: Path, *targets: str) -> Repro:
    """Run a `dvc repro` that must succeed."""
    done = repro(folder, *targets)
    assert done.code == 0, done
    return done


def kill_repro(folder: Path, when: Callable[[], bool]) -> None:
    """Start `dvc repro` and kill -9 all of its processes as soon as something is the case."""
    signalled(["dvc", "repro"], when, signal.SIGKILL, cwd=folder, env=environment(folder))


def signalled(
    command: Sequence[str | Path],
    when: Callable[[], bool],
    number: signal.Signals,
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
) -> tuple[int, str]:
    """Send a command and all that it started a signal when it is time; return code and stderr."""
    deadline = time.monotonic() + DEADLINE_S
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its own process group
        env=env,
        cwd=cwd,
    ) as started:
        try:
            while not when():
                assert started.poll() is None, "it ended before its moment came"
                assert time.monotonic() < deadline, "the moment did not come"
                time.sleep(0.002)
            os.killpg(started.pid, number)
            _, said = started.communicate(timeout=DEADLINE_S)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
    return started.returncode, said


def environment(folder: Path) -> dict[str, str]:
    """Commands of this environment; settings and caches of the user and the machine stay out."""
    commands = Path(sys.executable).parent
    elsewhere = folder.parent / f"{folder.name}-dvc"
    return {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "DVC_GLOBAL_CONFIG_DIR": str(elsewhere / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(elsewhere / "system"),
        "DVC_SITE_CACHE_DIR": str(elsewhere / "site"),
        "DVC_NO_ANALYTICS": "1",
    }
