"""Dockerfile, dev container and git hooks use what the Makefile uses, so that none of them rots."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

REPOSITORY = Path(__file__).parents[1]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{re.escape(target)}:.*\n((?:\t.+\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert found, target
    return [line.strip() for line in found[1].splitlines()]


def instructions(name: str) -> list[str]:
    """What the Dockerfile says after a keyword, lines that go on joined."""
    joined = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return re.findall(rf"^{name} (.+)$", joined, flags=re.MULTILINE)


def dev_container() -> dict[str, Any]:
    text = (REPOSITORY / ".devcontainer" / "devcontainer.json").read_text()
    tree = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert isinstance(tree, dict)
    return tree


def hooks() -> list[dict[str, Any]]:
    tree = YAML(typ="safe").load(REPOSITORY / ".pre-commit-config.yaml")
    (repository,) = tree["repos"]
    assert repository["repo"] == "local"
    found = repository["hooks"]
    assert isinstance(found, list)
    return found


def test_the_image_has_the_python_of_the_makefile() -> None:
    (version,) = re.findall(r"^PYTHON \?= python(\S+)$", MAKEFILE, flags=re.MULTILINE)
    assert instructions("FROM") == [f"python:{version}-slim"]
    assert PROJECT["requires-python"] == f">={version}"


def test_the_image_is_installed_by_the_makefile_with_its_constraints() -> None:
    apt, install = instructions("RUN")
    assert {"git", "make"} <= set(apt.split())
    assert install.split()[-2:] == ["make", "install"]
    installs = [line for line in recipe("$(INSTALLED)") if line.startswith("pip install")]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in line for line in installs)


def test_the_image_runs_what_the_makefile_has() -> None:
    (command,) = instructions("CMD")
    make, target = json.loads(command)
    assert make == "make"
    assert target == "demo"
    assert recipe(target)
    for target in re.findall(r"^#.*ssr-offline make (\S+)$", DOCKERFILE, flags=re.MULTILINE):
        assert recipe(target)


def test_the_environment_lies_where_the_makefile_makes_it() -> None:
    (folder,) = instructions("WORKDIR")
    (binaries,) = re.findall(r"^BIN := (\S+)$", MAKEFILE, flags=re.MULTILINE)
    assert instructions("ENV") == [f"PATH={folder}/{binaries}:$PATH"]
    assert instructions("COPY") == [". ."]


def test_the_dev_container_is_the_image_with_the_checkout_in_its_place() -> None:
    tree, (folder,) = dev_container(), instructions("WORKDIR")
    base = REPOSITORY / ".devcontainer"
    assert (base / tree["build"]["dockerfile"]).resolve() == REPOSITORY / "Dockerfile"
    assert (base / tree["build"]["context"]).resolve() == REPOSITORY
    assert tree["workspaceFolder"] == folder
    assert f"target={folder}," in tree["workspaceMount"]
    (environment,) = tree["mounts"]
    assert f"target={folder}/.venv," in environment
    assert tree["postCreateCommand"].startswith("make install && .venv/bin/")


def test_what_git_ignores_stays_out_of_the_image() -> None:
    def names(file: str) -> set[str]:
        lines = (REPOSITORY / file).read_text().splitlines()
        return {line.removeprefix("**/").strip("/") for line in lines if not line.startswith("#")}

    assert names(".dockerignore") == names(".gitignore")


def test_the_hooks_are_what_lint_demands_and_nothing_of_theirs_is_downloaded() -> None:
    entries = {hook["id"]: hook["entry"] for hook in hooks()}
    assert all(hook["language"] == "system" for hook in hooks())
    for command in recipe("lint"):
        tool = command.removesuffix(" --check")
        assert any(f"{entry} ".startswith(f".venv/bin/{tool} ") for entry in entries.values()), tool
    assert entries["reference"] == ".venv/bin/python -m pipeline.reference"
    assert entries["test-fast"] == "make test-fast"
    assert recipe("test-fast")


def test_the_tools_of_the_hooks_are_pinned() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines}
    asked = [re.split(r"[>=\[<]", each)[0] for each in PROJECT["optional-dependencies"]["dev"]]
    tools = {"ruff", "mypy", "import-linter", "pytest", "pytest-xdist", "pre-commit"}
    assert tools <= set(asked)
    assert {name.replace("-", "_") for name in tools} <= {name.replace("-", "_") for name in pinned}
