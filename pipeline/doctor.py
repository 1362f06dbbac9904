"""`ssr doctor`: whatever is likely to go wrong, found in seconds, with its cure.

Checks import what they need themselves, so that a package that is missing is a finding, too.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar, get_args

from rich.text import Text

from pipeline.console import console, size
from pipeline.devices import CPU, device_here
from pipeline.files import INDEX, MANIFEST, RUN
from store.errors import ConfigError, SSRError

if TYPE_CHECKING:
    from pipeline.params import Params
    from stages.prepare.manifest import Domain, Manifest

PATIENCE_S: Final = 60.0
"""For an import in another process."""

WEIGHT_FILES: Final = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")

Mark = Literal["ok", "warning", "problem"]
T = TypeVar("T")

_STYLES: Final[Mapping[Mark, str]] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        mark: A warning is something to know or to do next; with a problem some command ends.
        text: What is not ok, with its cure.
    """

    mark: Mark
    text: str


ok, warning, problem = (partial(Finding, mark) for mark in get_args(Mark))


def examine(
    path: Path, overrides: Sequence[str], looking_at: Callable[[str], None]
) -> Iterator[Finding]:
    """Check the machine, and the params against what lies in the current folder.

    Nothing is written. A check that fails itself is a finding as well.

    Args:
        path: The params file.
        overrides: As for `load_params`.
        looking_at: Called with what is looked at next; some of it takes seconds.

    Yields:
        Findings, as they are made.
    """
    for what, check in (
        ("Python and PyTorch", pytorch),
        ("torchvision, which others may need", torchvision),
        ("DVC", dvc),
        (f"{path}, data, weights and stores", partial(_work, path, overrides)),
    ):
        looking_at(what)
        yield from _findings_of(check)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a line for each finding as it comes.

    Raises:
        ConfigError: There was a problem.
    """
    problems = 0
    for mark, text in findings:
        problems += mark == "problem"
        console.print(Text(f"{mark:<7}", _STYLES[mark]), " ".join(text.split()))
    if problems:
        count = "a problem" if problems == 1 else f"{problems} problems"
        raise ConfigError(f"{count}, see above: repair the first and run `ssr doctor` again")


def attempt(call: Callable[[], T]) -> T | Finding:
    """Return what a call returns, or the problem that it raises."""
    try:
        return call()
    except SSRError as error:
        return problem(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return problem(f"{where}{error.strerror or error}; check the path and its permissions")
    except Exception as error:  # what is broken in a way of its own must not hide the other checks
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError):
            return problem(f"a package cannot be imported ({why}): run `pip install -e .` again")
        return problem(f"a check failed, please report it ({why})")


def _findings_of(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    found = attempt(lambda: list(check()))
    yield from [found] if isinstance(found, Finding) else found


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
            f"{version} sees no GPU, but there is {gpu}: install a build of PyTorch for its driver"
        )
    else:
        yield ok(f"{version}, no GPU, {torch.get_num_threads()} CPU threads")


def torchvision() -> Iterator[Finding]:
    """Import torchvision, in another process, as one that does not fit PyTorch may end it.

    This project never needs it, but transformers imports one that is installed.
    """
    if find_spec("torchvision") is None:
        yield ok("torchvision is not installed, and not needed")
        return
    program = (sys.executable, "-P", "-c", "import torchvision")  # -P: none of this folder
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        yield warning(f"torchvision was not imported within {PATIENCE_S:.0f} s: try again")
        return
    if done.returncode == 0:
        yield ok("torchvision can be imported (it is not needed)")
    else:
        why = (done.stderr.strip().splitlines() or ["it died"])[-1]
        yield problem(
            f"torchvision is installed but broken, and breaks transformers ({why[:120]}): "
            "`pip uninstall torchvision`, it is not needed"
        )


def dvc() -> Iterator[Finding]:
    """Check what `dvc repro` needs, and whether a merge or a kill left a damaged file."""
    here = Path.cwd()
    if not Path("dvc.yaml").is_file():
        yield warning(
            "no dvc.yaml in this folder: `dvc repro` needs a clone of the repository, "
            "the commands of `ssr` do not"
        )
        return
    home = next((p for p in (here, *here.parents) if (p / ".dvc").is_dir()), None)
    if home is None:
        yield warning("dvc.yaml, but no .dvc folder: run `dvc init` in the git repository")
        return
    alone = re.search(r"(?im)^\s*no_scm\s*=\s*true", _text_of(home / ".dvc" / "config"))
    if not alone and not any((p / ".git").exists() for p in (home, *home.parents)):
        yield warning(f"{home} is not a git repository: run `git init`, or `dvc init -f --no-scm`")
        return
    found = False
    lock, work = Path("dvc.lock"), home / ".dvc" / "tmp" / "rwlock"
    if re.search(r"(?m)^(<{7}|>{7}) ", _text_of(lock)):
        found = True
        yield problem(
            f"{lock} holds a conflict of git: take one side with `git checkout --ours {lock}`, or "
            "--theirs, then run `dvc repro`"
        )
    elif lock.is_file() and not _is_lock_of_dvc(_text_of(lock)):
        found = True
        yield problem(f"{lock} is damaged: restore it, or delete it, then `dvc repro`")
    if work.is_file() and not _is_json_object(_text_of(work)):
        found = True
        yield problem(f"{work} was left damaged by a killed run: delete it when no DVC is running")
    if not found:
        yield ok("DVC: dvc.yaml, .dvc and git are there")


def _work(path: Path, overrides: Sequence[str]) -> Iterator[Finding]:
    """Check the params, and what lies in the current folder against them."""
    from pipeline.checks import current_manifest
    from pipeline.params import load_params

    config = attempt(lambda: load_params(path, overrides))
    if isinstance(config, Finding):
        yield config
        return
    yield ok(f"{path}: every key and value is allowed")
    for check in (_devices, _writable, _roots, _weights):
        yield from _findings_of(partial(check, config))
    images = None
    if MANIFEST.exists():
        found = attempt(lambda: current_manifest(config, MANIFEST))
        if isinstance(found, Finding):
            yield found
        else:
            images = found
            yield from _findings_of(partial(_manifest, config, images))
    else:
        yield warning(f"{MANIFEST}: no images are listed yet: run `ssr prepare`")
    of_stores = list(_findings_of(partial(_stores, config, images)))
    yield from of_stores
    embedded = all(finding.mark == "ok" for finding in of_stores)
    yield from _findings_of(partial(_disk, config, None if embedded else images))


def _devices(config: "Params") -> Iterator[Finding]:
    from stages.device import pick_device

    for section in ("embed", "train", "evaluate"):
        device, key = getattr(config, section).device, f"{section}.device"
        found = attempt(partial(pick_device, device, key))
        yield from [found] if isinstance(found, Finding) else []


def _writable(config: "Params") -> Iterator[Finding]:
    """Check the permissions of the folders that commands write into."""
    location = config.store.location
    for place in (MANIFEST.parent, RUN, *([location] if isinstance(location, Path) else [])):
        there = place.absolute()
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            yield problem(f"{there}: is in a folder's place: move it away")
        elif not os.access(there, os.W_OK | os.X_OK):
            yield problem(f"{there}: cannot be written to: set its permissions, or work elsewhere")


def _roots(config: "Params") -> Iterator[Finding]:
    for domain, root in config.prepare.roots.items():
        kind = config.prepare.domains[domain].kind
        if kind == "drawn":
            yield ok(f"{domain}: drawn into {root} on first use")
        elif root.is_dir():
            yield ok(f"{domain}: {kind} in {root}")
        else:
            yield problem(
                f"prepare.{domain}.root: {root}: there is no such folder: put the data there or "
                "correct the path"
            )


def _manifest(config: "Params", images: "Manifest") -> Iterator[Finding]:
    """Check that the manifest's images are where it says, and large enough for the crop."""
    roots, crop = config.prepare.roots, config.train.crop_px
    for domain, root in roots.items():
        first = root / images.select(domain=domain)[0].image
        if not first.is_file():
            yield problem(
                f"{first}: is in {MANIFEST}, but not there: put the data back, or run `ssr prepare`"
            )
        for record in images.select(domain=domain, split="train"):
            height, width = record.working_size_px
            if min(height, width) < crop:
                yield problem(
                    f"train.crop_px {crop} is larger than the working image of {height}x{width} px "
                    f"of {record.image_id}: run `ssr prepare`, which pads it, then `ssr embed`"
                )
                break
    counts = ", ".join(f"{len(images.select(domain=d)):,} of {d}" for d in roots)
    left_out = f", {len(images.skipped)} left out" if images.skipped else ""
    yield ok(f"{MANIFEST}: {counts}{left_out}")


def _weights(config: "Params") -> Iterator[Finding]:
    """Check that the weight files that the params name are there."""
    from stages.student.config import is_hub_id

    teacher, student, start = config.embed.teacher, config.train.student.weights, config.train.init
    if not teacher.trained:
        yield warning(
            "embed.teacher.weights is random, an UNTRAINED TEACHER: fine for a trial, else name "
            "trained weights"
        )
    elif not teacher.at_hand:
        missing = f"embed.teacher.weights: {teacher.missing}"
        if INDEX.is_file():
            yield warning(f"{missing}; what is embedded can be trained on, embedding needs it")
        else:
            yield problem(missing)
    if student != "random" and not Path(student).expanduser().exists():
        if student.endswith(WEIGHT_FILES) or student.startswith(("/", "./", "../", "~")):
            yield problem(
                f"train.student.weights: {student} does not exist: download it or correct the path"
            )
        elif not is_hub_id(student):
            yield problem(
                f"train.student.weights: {student} is not a file, a folder or a Hugging Face id, "
                "which is owner/name as nvidia/mit-b5: correct it, or set it to random"
            )
    if start is not None and not (Path(start).expanduser() / "config.json").is_file():
        yield problem(
            f"train.init: {start}/config.json is missing: train that student first, or name "
            "another student's folder"
        )


def _stores(config: "Params", images: "Manifest | None") -> Iterator[Finding]:
    """Check that the stores are of the teacher that the params name, and complete."""
    from pipeline.checks import require_current_stores
    from store.index import Index
    from store.read import open_features

    regularizer = config.train.regularizer
    if not regularizer.on:
        yield ok("train.regularizer.on is []: no features are read")
        return
    if not isinstance(config.store.location, Path) and find_spec("s3fs") is None:
        yield problem(f"store.url: {config.store.url} needs s3fs: `pip install -e '.[s3]'`")
        return
    if not INDEX.exists():
        yield warning(f"{INDEX}: nothing is embedded yet: run `ssr embed`")
        return
    index = Index.read(INDEX)
    require_current_stores(config, INDEX)
    if images is None:
        return
    domains: tuple[Domain, ...] = ("source", "target") if "mixed" in regularizer.on else ("source",)
    for domain in domains:
        skipped = index.skipped(domain)
        records = images.select(domain=domain, split="train")
        reader = open_features(
            config.store.location,
            index,
            domain,
            levels=regularizer.used_levels,
            images={r.image_id: r.content for r in records if r.image_id not in skipped},
        )
        levels = ", ".join(regularizer.used_levels)
        url = reader.header.files.url
        yield ok(f"{domain} store: {len(records):,} images at {levels} in {url}")


def _disk(config: "Params", images: "Manifest | None") -> Iterator[Finding]:
    """Compare the room on the disk with what embedding needs; no images need none."""
    from pipeline.plan import free_bytes, plan_stores

    free, place = free_bytes(config.store.url), config.store.location
    if free is None or not isinstance(place, Path):
        yield ok(f"room: {config.store.url} is not on a disk")
        return
    line = f"room: {size(free)} free at {config.store.url}"
    if images is None or not config.embed.domains:
        yield ok(line)
        return
    need = plan_stores(config, images).size_bytes(config.store.codec)
    line += f", {size(need)} needed in all"
    if need <= free:
        yield ok(line)
    elif any(place.glob("*/*.zarr")):
        yield warning(f"{line}: make room, unless much of it is there already")
    else:
        yield problem(f"{line}: make room, set store.codec: int8-zstd, or another store.url")


def _text_of(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _is_lock_of_dvc(text: str) -> bool:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return isinstance(YAML(typ="safe").load(text)["stages"], dict)
    except (YAMLError, ValueError, RecursionError, TypeError, KeyError):
        return False


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
