"""`ssr doctor`: whatever is likely to go wrong, found in seconds, with its cure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.text import Text

from pipeline.console import console
from pipeline.doctor import machine
from pipeline.doctor.finding import Finding, findings_of
from store.errors import ConfigError

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}


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

    def work() -> Iterator[Finding]:
        from pipeline.doctor.work import examine_work  # which may lack a package

        return examine_work(path, overrides)

    for what, check in (
        ("Python and PyTorch", machine.pytorch),
        ("torchvision, which others may need", machine.torchvision),
        ("DVC", machine.dvc),
        (f"{path}, data, weights and stores", work),
    ):
        looking_at(what)
        yield from findings_of(check)


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
