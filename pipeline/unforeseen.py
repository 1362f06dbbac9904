"""Errors that nobody foresaw: one line for the user, a file with the traceback for a report."""

import sys
import tempfile
import traceback

from pipeline.costs import versions
from store.errors import is_out_of_memory


def explained(error: Exception) -> tuple[str, int]:
    """Return one line about an error, and the exit code: 2 where the user can help it.

    The traceback is written to a new file for temporary ones; to stderr where that fails.
    """
    what = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
    if is_out_of_memory(error):
        return (
            f"{what}; close other programs, or take less at a time: train.micro_batch_size, "
            "train.activation_checkpointing, train.workers, embed.batch_tiles, evaluate.window_px"
        ), 2
    lines = (f"{sys.argv}\n", f"{versions()}\n", *traceback.format_exception(error))
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
