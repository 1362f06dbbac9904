"""What training starts from: the weight files that parameters only name."""

from pathlib import Path

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
    files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*"))]
    return {str(file): sha256_of_file(file) for file in sorted(files) if file.is_file()}
