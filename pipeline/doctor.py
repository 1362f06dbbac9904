"""`ssr doctor`: whatever is likely to go wrong, with its cure, by the checks of the commands.

Checks import what they need themselves, so that a package that is missing is a finding, too.
"""

import os
import platform
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.text import Text

from pipeline import INDEX, MANIFEST, RUN, explain
from pipeline.console import console
from store.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pipeline.params import Params


class Finding(NamedTuple):
    """What a check found: with a problem some command ends, a warning is something to know."""

    mark: Literal["ok", "warning", "problem"]
    text: str


ok, warning, problem = (partial(Finding, mark) for mark in ("ok", "warning", "problem"))


def examine(path: Path, overrides: Sequence[str]) -> Iterator[Finding]:
    """Check the machine, and the params against what lies in the current folder; write nothing."""
    yield from _guarded(_machine())
    yield from _guarded(_work(path, overrides))


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a line for each finding as it comes.

    Raises:
        ConfigError: There was a problem.
    """
    styles = {"ok": "green", "warning": "yellow", "problem": "bold red"}
    problems = 0
    for mark, text in findings:
        problems += mark == "problem"
        console.print(Text(f"{mark:<7}", styles[mark]), " ".join(text.split()))
    if problems:
        raise ConfigError(f"problems: {problems}, see above; repair the first and run it again")


def _guarded(check: Iterator[Finding]) -> Iterator[Finding]:
    """Yield what a check finds, at last perhaps the error that ended it."""
    try:
        yield from check
    except Exception as error:  # a damaged installation can fail in any way
        why = f"{type(error).__name__}: {error}"[:160]
        broken = f"a check failed ({why}): run `pip install -e .` again, or report it"
        yield problem(explain(error) or broken)


def _machine() -> Iterator[Finding]:
    """Look for DVC's files, and import what training needs."""
    if Path("dvc.yaml").is_file() and Path(".dvc").is_dir():
        yield ok("DVC: dvc.yaml and .dvc are there")
    else:
        yield warning(
            "no dvc.yaml and .dvc in this folder: `dvc repro` needs a clone of the repository, the "
            "commands of `ssr` do not"
        )
    import torch

    from stages.student.student import Student  # noqa: F401 - fails if torchvision does not fit

    version = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        yield ok(f"{version}, GPU {', '.join(names)}")
    elif shutil.which("nvidia-smi"):
        yield warning(
            f"{version} sees no GPU, but NVIDIA's driver is here: install a build of PyTorch for it"
        )
    else:
        yield ok(f"{version}, no GPU, {torch.get_num_threads()} CPU threads")


def _work(path: Path, overrides: Sequence[str]) -> Iterator[Finding]:
    from pipeline.params import load_params

    config = load_params(path, overrides)
    yield ok(f"{path}: every key and value is allowed")
    for check in (_devices, _folders, _weights, _data):
        yield from _guarded(check(config))


def _devices(config: "Params") -> Iterator[Finding]:
    from stages.device import pick_device

    for section in ("embed", "train", "evaluate"):
        try:
            pick_device(getattr(config, section).device, f"{section}.device")
        except ConfigError as error:
            yield problem(str(error))


def _folders(config: "Params") -> Iterator[Finding]:
    from pipeline.plan import nearest

    for domain, root in config.prepare.roots.items():
        kind = config.prepare.domains[domain].kind
        if root.is_dir() or kind == "drawn":  # which is drawn on first use
            yield ok(f"{domain}: {kind} in {root}")
        else:
            yield problem(
                f"prepare.{domain}.root: {root}: there is no such folder: put the data there or "
                "correct the path"
            )
    location = config.store.location
    for place in (MANIFEST.parent, RUN, *([location] if isinstance(location, Path) else [])):
        there = nearest(place)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield problem(f"{there}: is not a folder that can be written to: correct that")


def _weights(config: "Params") -> Iterator[Finding]:
    from stages.student.config import IMAGENET, REIN, is_hub_id
    from stages.student.saved import read_card

    teacher, student, start = config.embed.teacher, config.train.student.weights, config.train.init
    is_named = is_hub_id(student) and config.train.student.backbone != REIN
    if student == IMAGENET:
        from stages.efficientnet_lite import STUDENTS, not_installed, weight_file

        size = STUDENTS[config.train.student.backbone]
        if weight_file(size) is None:
            yield problem(f"train.student.weights: {not_installed(size)}")
    elif student != "random" and not is_named and not Path(student).expanduser().exists():
        yield problem(
            f"train.student.weights: {student} does not exist and is not a Hugging Face id "
            "(owner/name): download it or correct the path"
        )
    if start is not None:
        read_card(Path(start).expanduser())
    if not teacher.trained:
        yield warning("embed.teacher.weights is random, an UNTRAINED TEACHER: fine for a trial")
    elif not teacher.at_hand and INDEX.is_file():
        yield warning(f"{teacher.missing}; only embedding needs it")
    elif not teacher.at_hand:
        yield problem(teacher.missing)


def _data(config: "Params") -> Iterator[Finding]:
    """Check manifest, images and stores as training does."""
    from pipeline.project import Project
    from stages.prepare.pixels import read_raw
    from stages.train.prefix import open_prefixes
    from stages.train.stage import open_stores

    if not MANIFEST.exists():
        yield warning(f"{MANIFEST}: no images are listed yet: run `ssr prepare`")
        return
    project = Project(config)
    images, roots = project.manifest, project.workspace.roots
    for domain, root in roots.items():
        try:
            read_raw(images.select(domain=domain)[0], root)
        except DataError as error:
            yield problem(str(error))
    counts = ", ".join(f"{len(images.select(domain=d)):,} of {d}" for d in roots)
    yield ok(f"{MANIFEST}: {counts}, {len(images.skipped)} left out")
    if config.reads_restyled:
        project.require_current_restyled()
    if not (config.read_domains or config.train.reads_prefixes):
        yield ok("training reads no features")
    elif not isinstance(config.store.location, Path) and find_spec("s3fs") is None:
        yield problem(f"store.url: {config.store.url} needs s3fs: `pip install -e '.[s3]'`")
    elif not INDEX.exists():
        yield warning(f"{INDEX}: nothing is embedded yet: run `ssr embed`")
    else:
        project.require_current_inputs()
        for domain, reader in open_stores(config.train, project.workspace, images)[1].items():
            yield ok(f"{domain} store: every training image is in {reader.header.files.url}")
        prefixes = open_prefixes(config.train, config.store.location, images)
        if prefixes is not None:
            url = prefixes.reader.header.files.url
            yield ok(f"prefixes: views of every training image are in {url}")
