"""`ssr doctor`: whatever is likely to go wrong, found in seconds, with its cure."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.doctor import machine
from pipeline.doctor.finding import Finding, attempt, findings_of, problem

__all__ = ["Finding", "examine"]


def examine(
    path: Path, overrides: Sequence[str], looking_at: Callable[[str], None]
) -> Iterator[Finding]:
    """Check the machine, and the params against what lies in the current folder.

    Nothing is written. A check that fails itself is a finding as well.

    Args:
        path: The params file.
        overrides: As for `load_params`.
        looking_at: Told what is looked at next; some of it takes seconds.

    Yields:
        Findings, as they are made.
    """
    looking_at("Python and PyTorch")
    torchvision = attempt(machine.Torchvision)  # takes seconds, in another process
    for check in (machine.python, machine.pytorch):
        yield from findings_of(check)
    looking_at("torchvision, which others may need")
    if isinstance(torchvision, Finding):
        yield torchvision
    else:
        yield from findings_of(torchvision.check)
    looking_at("DVC")
    yield from findings_of(machine.dvc)
    looking_at(f"{path}, data, weights and stores")
    try:
        from pipeline.doctor.work import examine_work
    except Exception as error:  # a package that is missing, or damaged in a way of its own
        why = f"{type(error).__name__}: {error}"
        yield problem(f"a package cannot be imported ({why}): run `pip install -e .` again")
    else:
        yield from examine_work(path, overrides)
