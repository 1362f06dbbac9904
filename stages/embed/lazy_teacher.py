"""The teacher as far as it is needed: often only the hash of its weights is."""

import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stages.embed.config import EmbedConfig
from store.atomic import write_bytes
from store.errors import CheckpointError

if TYPE_CHECKING:
    from stages.embed.teacher import Teacher


class LazyTeacher:
    """A teacher that is loaded when first used, and torch with it.

    The hash of its weights, which names the store, is remembered in a file: by path, size and times
    of a weight file, by seed and torch version of random weights. Without that file the weights are
    read once more.

    Args:
        config: section `embed`.
        cache: file that remembers hashes.

    Attributes:
        trained: False where the weights are random.
    """

    def __init__(self, config: EmbedConfig, cache: Path) -> None:
        self._config = config
        self._cache = cache
        self.trained = config.weights != "random"

    @cached_property
    def loaded(self) -> "Teacher":
        """The teacher.

        Raises:
            CheckpointError: for bad weights, or weights that are not those of the remembered hash.
        """
        from stages.embed.teacher import load_teacher

        teacher = load_teacher(self._config)
        remembered = self._remembered().get(self._key, teacher.weights_sha256)
        if remembered != teacher.weights_sha256:
            self._cache.unlink()
            raise CheckpointError(
                f"{self._config.weights}: the weights are not those whose hash {self._cache} "
                "remembered; it is forgotten now, run again"
            )
        return teacher

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the weights' values.

        Raises:
            CheckpointError: for bad weights.
        """
        known = self._remembered()
        if self._key not in known:
            known[self._key] = self.loaded.weights_sha256
            write_bytes(self._cache, json.dumps(known, indent=1, sort_keys=True).encode())
        return known[self._key]

    @property
    def _key(self) -> str:
        config = self._config
        if not self.trained:
            return f"{config.architecture} random {config.seed} torch {version('torch')}"
        path = Path(config.weights)
        if not path.is_file():
            return ""  # unknown, so that loading it says what is wrong
        stat = path.stat()
        times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
        return f"{config.architecture} {path.resolve()} {stat.st_size} {times}"

    def _remembered(self) -> dict[str, str]:
        try:
            known = json.loads(self._cache.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}
