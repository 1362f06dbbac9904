"""Lines on stderr: wrapped for a terminal, of an interrupt, of an error that nobody foresaw."""

import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from store.errors import is_out_of_memory

INTERRUPTED: Final = 130
"""Exit code of a process that an interrupt ended: 128 and the signal's number."""

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
_REPAIRING: Final = "shards that were embedded again are kept; go on with"


def is_wrapped(stream: TextIO) -> bool:
    """Tell whether a person reads along, or says by COLUMNS how wide lines may be."""
    return "COLUMNS" in os.environ or stream.isatty()


def wrapped(message: str) -> str:
    """Break a message for stderr at words, but no command: `...` is there to be copied."""
    if not is_wrapped(sys.stderr):
        return message
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", "\0"), message)
    broken = "\n".join(
        textwrap.fill(
            line,
            shutil.get_terminal_size().columns,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in whole.splitlines()
    )
    return broken.replace("\0", " ")


class Wrapping(logging.Formatter):
    """Remarks of the stages, in the lines of errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message alone."""
        return wrapped(record.getMessage())


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
        safe = _REPAIRING
    again = [word for word in words if word != "--fresh"]  # which would throw the checkpoint away
    line = f"ssr: interrupted: {safe} `{shlex.join(['ssr', *again])}`"
    print(wrapped(line), file=sys.stderr)  # noqa: T201 - the shell's own line


def explained(error: Exception, versions: Mapping[str, str]) -> tuple[str, int]:
    """Return one line about an error, and the exit code: 2 where the user can help it.

    The traceback is written to a new file for temporary ones, with the versions of packages; to
    stderr where that fails.
    """
    what = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
    if is_out_of_memory(error):
        return (
            f"{what}; close other programs, or take less at a time: train.micro_batch_size, "
            "train.activation_checkpointing, train.workers, embed.batch_tiles, evaluate.window_px"
        ), 2
    lines = (f"{sys.argv}\n", f"{versions}\n", *traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="ssr-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.writelines(lines)
        where = file.name
    except OSError:
        sys.stderr.writelines(lines)
        where = "above"
    return f"unforeseen: {what}; please report it with its traceback: {where}", 1
