"""A repository of its own, with git and DVC, in which `dvc repro` runs the pipeline."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pipeline.workplace import REPOSITORY, write_params

VERSIONED = ("dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")
CODE = ("stages", "store", "pipeline")
DEADLINE_S = 300.0


@dataclass(frozen=True)
class Repro:
    """What a `dvc repro` did.

    Attributes:
        code: Exit code.
        ran: Stages that ran, in order.
        skipped: Stages that DVC found unchanged.
        out: All that it printed.
        err: All that it complained of.
    """

    code: int
    ran: list[str]
    skipped: list[str]
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
    deadline = time.monotonic() + DEADLINE_S
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # its own process group: it and all that it starts
    ) as started:
        try:
            while not when():
                assert started.poll() is None, "dvc repro ended before it could be killed"
                assert time.monotonic() < deadline, "the moment to kill did not come"
                time.sleep(0.002)
        finally:
            os.killpg(started.pid, signal.SIGKILL)


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
