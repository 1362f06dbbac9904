"""`ssr doctor`: whatever is likely to go wrong, found in seconds, with its cure."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pipeline.current import current_manifest
from pipeline.doctor import machine, work
from pipeline.doctor.finding import Finding, attempt, findings_of, ok, warning
from pipeline.files import MANIFEST
from pipeline.params import load_params

__all__ = ["Finding", "examine"]


def examine(path: Path, overrides: Sequence[str]) -> Iterator[Finding]:
    """Check the machine, and the params against what lies in the current folder.

    Nothing is written. A check that fails itself is a finding as well.

    Args:
        path: The params file.
        overrides: As for `load_params`.

    Yields:
        Findings, as they are made.
    """
    torchvision = attempt(machine.Torchvision)  # takes seconds, in another process
    for check in (machine.python, machine.pytorch):
        yield from findings_of(check)
    if isinstance(torchvision, Finding):
        yield torchvision
    else:
        yield from findings_of(torchvision.check)
    yield from findings_of(machine.dvc)
    config = attempt(lambda: load_params(path, overrides))
    if isinstance(config, Finding):
        yield config
        return
    yield ok(f"{path}: every key and value is allowed")
    for of_params in (work.devices, work.writable, work.roots, work.weights):
        yield from findings_of(partial(of_params, config))
    images = None
    if MANIFEST.exists():
        found = attempt(lambda: current_manifest(config, MANIFEST))
        if isinstance(found, Finding):
            yield found
        else:
            images = found
            yield from findings_of(lambda: work.manifest(config, found))
    else:
        yield warning(f"{MANIFEST}: no images are listed yet: run `ssr prepare`")
    stores = list(findings_of(lambda: work.stores(config, images)))
    yield from stores
    embedded = all(finding.mark == "ok" for finding in stores)
    yield from findings_of(lambda: work.disk(config, images, embedded=embedded))
