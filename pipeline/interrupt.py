"""Ctrl-C: what is safe, and how to go on, in one line."""

import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from pipeline.lines import wrapped

CODE: Final = 130
"""Of a process that an interrupt ended: 128 and the signal's number."""

_SAFE: Final[Mapping[str, str]] = {
    "prepare": "the manifest is as it was, images that were checked are remembered; go on with",
    "embed": "shards that were written are kept; go on with",
    "train": "the last checkpoint is kept; go on from it with",
    "evaluate": "results are written at the end, each file whole; measure again with",
    "predict": "pictures that were written are whole; predict all of them again with",
    "export": "every file that was written is whole; finish the folder with",
    "import": "the student is written at the end; start again with",
    "verify": "nothing was changed; start again with",
    "convert": "shards that were written are kept; go on with",
}
_MENDING: Final = "shards that were embedded again are kept; go on with"


def say_interrupted(words: Sequence[str]) -> None:
    """Print what an interrupted command left behind, and what to type to go on.

    From now on another Ctrl-C ends the process at once.

    Args:
        words: The command line after `ssr`.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = words[0] if words else ""
    safe = _SAFE.get(command, "nothing was changed; start again with")
    if command == "verify" and "--repair" in words:
        safe = _MENDING
    again = [word for word in words if word != "--fresh"]  # which would throw the checkpoint away
    line = f"ssr: interrupted: {safe} `{shlex.join(['ssr', *again])}`"
    print(wrapped(line), file=sys.stderr)  # noqa: T201 - the shell's own line
