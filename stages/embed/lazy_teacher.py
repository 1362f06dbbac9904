"""The teacher as far as it is needed: often only the hash of its weights is."""

import json
from contextlib import suppress
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stages.embed.config import EmbedConfig
from store.atomic import read_bytes, write_bytes
from store.errors import CheckpointError

if TYPE_CHECKING:
    from stages.embed.teachers.sam_encoder import Teacher


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
        from stages.embed.teachers.sam_encoder import load_teacher

        teacher = load_teacher(self._config)
        if self.remembered_sha256 not in (None, teacher.weights_sha256):
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
        if self._key is None or self._key not in known:
            sha256 = self.loaded.weights_sha256  # says what is wrong where there is no file
            assert self._key is not None
            known[self._key] = sha256
            with suppress(OSError):  # a store may be read-only; the next run hashes once more
                write_bytes(self._cache, json.dumps(known, indent=1, sort_keys=True).encode())
        return known[self._key]

    @property
    def remembered_sha256(self) -> str | None:
        """The hash if it is known without loading the weights."""
        return None if self._key is None else self._remembered().get(self._key)

    @property
    def has_weights(self) -> bool:
        """Whether the weights are at hand: random, or a file that is there."""
        return self._key is not None

    @property
    def _key(self) -> str | None:
        config = self._config
        if not self.trained:
            return f"{config.architecture} random {config.seed} torch {version('torch')}"
        path = Path(config.weights).expanduser()
        if not path.is_file():
            return None
        stat = path.stat()
        times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
        return f"{config.architecture} {path.resolve()} {stat.st_size} {times}"

    def _remembered(self) -> dict[str, str]:
        try:
            known = json.loads(read_bytes(self._cache))
        except (OSError, ValueError, RecursionError):
            return {}
        return known if isinstance(known, dict) else {}
