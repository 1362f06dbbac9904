"""How `ssr doctor` shows its findings."""

from collections.abc import Iterable, Mapping
from typing import Final

from rich.text import Text

from pipeline.console import console
from pipeline.doctor.finding import Finding, Mark
from store.errors import ConfigError

_STYLES: Final[Mapping[Mark, str]] = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a line for each finding as it comes.

    Raises:
        ConfigError: There was a problem.
    """
    problems = 0
    for finding in findings:
        problems += finding.mark == "problem"
        console.print(Text(f"{finding.mark:<7}", _STYLES[finding.mark]), finding.text)
    if problems:
        count = "a problem" if problems == 1 else f"{problems} problems"
        raise ConfigError(f"{count}, see above: mend the first one and run `ssr doctor` again")
