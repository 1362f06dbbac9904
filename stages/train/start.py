"""What training starts from: the weight files that parameters only name."""

from pathlib import Path

from stages.student.config import STUDENT_FILES
from stages.train.config import TrainConfig
from store.fingerprint import sha256_of_file


def digests_of_start(config: TrainConfig) -> dict[str, str]:
    """Hash the files of `train.init` and `train.student.weights`.

    The names in the parameters stay when a file behind them changes; so this goes into the
    fingerprint of a run, and by `ssr prepare` into a file that DVC compares.

    Args:
        config: Section `train`.

    Returns:
        Path -> SHA-256; empty for `random`. A Hugging Face id has no file here either: pin it by
        downloading it.
    """
    named = [config.student.weights, *([config.init] if config.init else [])]
    paths = [Path(name).expanduser() for name in named]
    files = [file for path in paths for file in _files_of(path)]
    return {str(file): sha256_of_file(file) for file in sorted(files) if file.is_file()}


def _files_of(path: Path) -> list[Path]:
    """List what a start is read from: a student's folder may hold metrics and pictures besides."""
    if path.is_file():
        return [path]
    student = [path / name for name in STUDENT_FILES]
    return student if all(file.is_file() for file in student) else list(path.glob("*"))
