"""Which step of stage one the flags of `ssr embed` name."""

import re

from stages.embed.stage import Step
from store.errors import ConfigError


def step_of(part: str | None, *, init: bool, finalise: bool) -> Step:
    """Read the flags of `ssr embed`, of which one at most is given.

    Raises:
        ConfigError: Several are given, or the part is not I/N.
    """
    if (part is not None) + init + finalise > 1:
        raise ConfigError("--init, --part and --finalise are three steps; give one at a time")
    if part is not None:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--part {part[:60]}: write it as I/N, from 1/N to N/N")
        return int(match[1]), int(match[2])
    if init:
        return "init"
    return "finalise" if finalise else "all"
