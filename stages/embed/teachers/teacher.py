"""The protocol of teachers: what stage one asks of one before and after its network is loaded."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field

from stages.fields import PathText, Section
from store.errors import CheckpointError
from store.fingerprint import sha256_of_file

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["float32", "bfloat16", "float16"]
RGB = tuple[float, float, float]
"""A number of each channel, for pixels of 0 to 255."""


class TeacherLevel(NamedTuple):
    """One feature map that a teacher offers."""

    stride_px: int  # working pixels per token
    channels: int
    input_scale: float  # pixels of the network's input per working pixel


class Teacher(Section):
    """Section `embed.teacher` of one kind; no torch before `network` where it can be helped."""

    weights: PathText = Field(description="File of its weights.")

    @property
    @abstractmethod
    def name(self) -> str:
        """For tables and messages."""

    @property
    def trained(self) -> bool:
        """False where the weights are random: UNTRAINED TEACHER."""
        return self.weights != "random"

    @property
    def path(self) -> Path:
        """The weight file."""
        return Path(self.weights).expanduser()

    @property
    def at_hand(self) -> bool:
        """Whether there are weights: random, or a file that is there."""
        return not self.trained or self.path.is_file()

    @property
    def known(self) -> bool:
        """Whether `levels` needs nothing that is not on this machine."""
        return True

    @property
    @abstractmethod
    def missing(self) -> str:
        """What to say where the weights are not at hand: what is missing, and the cure."""

    def absolute(self) -> Self:
        """Return it for a process in another folder: the path of its weights is absolute."""
        if not self.trained:
            return self
        return self.model_copy(update={"weights": str(self.path.absolute())})

    def untrained(self) -> Self:
        """Return it with random weights, which cost what others do, where it can draw them."""
        return self.model_copy(update={"weights": "random"})

    def weights_identity(self) -> dict[str, Any]:
        """Return which weights they are, as `identity` has it: the hash of their file.

        Raises:
            CheckpointError: if the file is missing or cannot be read.
        """
        if not self.at_hand:
            raise CheckpointError(self.missing)
        return {"weights_sha256": file_sha256(self.path)}

    @abstractmethod
    def normalisation(self, weights: Mapping[str, Any]) -> tuple[RGB, RGB]:
        """Return mean and standard deviation of its input; `weights` as in `identity`."""

    @property
    @abstractmethod
    def side_px(self) -> int:
        """Side of the square input."""

    @abstractmethod
    def levels(self) -> dict[str, TeacherLevel]:
        """Return the levels that it offers, finest first.

        Those of one input scale come from one pass over one tile.

        Raises:
            CheckpointError: where they depend on a model that cannot be had.
            ConfigError: for levels that the model does not have.
        """

    def macs_per_tile(self) -> int | None:
        """Count the multiply-accumulates of one tile; None where nobody has."""
        return None

    @abstractmethod
    def identity(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Return what its features depend on, in JSON's types; `weights` is `weights_identity`."""

    @abstractmethod
    def network(self) -> "nn.Module":
        """Build the network with its weights, as `Encoder` takes it.

        Raises:
            CheckpointError: for a weight file that is missing, damaged or of another network.
            ConfigError: where a package is missing.
        """


def file_sha256(path: Path) -> str:
    """Hash a weight file: 1.5 s for ViT-H's 2.5 GB; in one process only once.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        stat = path.stat()
        return _sha256(path, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read now ({error.strerror}); correct the path or its permissions"
        ) from error


@cache
def _sha256(path: Path, state: tuple[int, ...]) -> str:
    return sha256_of_file(path)
