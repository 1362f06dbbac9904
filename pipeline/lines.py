"""Lines as wide as the screen: broken at words in a terminal, left whole in a pipe."""

import logging
import os
import re
import shutil
import sys
import textwrap
from typing import TextIO


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
