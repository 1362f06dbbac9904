"""Dataset: the base of every kind's `Config`."""

from abc import abstractmethod
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from stages.fields import Domain, Name, PathText, Section, SidePx, Split
from stages.prepare.datasets.listing import Listing, Part, Progress, labelled_like
from stages.prepare.labels import ClassTable

NO_LABELS: Final = "the source is what labels come from"


def _inside_root(path: str) -> str:
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} must be a path inside root, written relative to it")
    return PurePosixPath(path).as_posix()


PathInRoot = Annotated[Name, AfterValidator(_inside_root)]


class Dataset(Section):
    """A dataset as params.yaml names it; a kind adds `kind`, its keys and how it is listed.

    Attributes:
        terms: Terms of the data, for the model card.
        class_table: Its classes; None where the user writes them.
    """

    terms: ClassVar[str]
    class_table: ClassVar[ClassTable | None] = None

    root: PathText = Field(description="Folder of the dataset.")
    fit_px: tuple[SidePx, SidePx] | None = Field(
        description="Width and height that images are scaled to fit in; null keeps their size."
    )

    @property
    def folder(self) -> Path:
        """The root with `~` expanded."""
        return Path(self.root).expanduser()

    @property
    def identity(self) -> dict[str, Any]:
        """What the dataset is, in JSON's types, wherever its folder lies."""
        return self.model_dump(mode="json", exclude={"root"})

    @abstractmethod
    def scan(self, progress: Progress) -> Listing:
        """List the images; only `drawn` writes any.

        Raises:
            DataError: A folder cannot be listed.
        """

    def require_training_data(self, domain: Domain) -> None:
        """Raise ValueError where the dataset has nothing to train on as this domain."""

    def key_of(self, split: Split, what: Literal["images", "labels"]) -> str:
        """Return the key that names the folder of a split's images or labels."""
        return "root"


class FileDataset(Dataset):
    """A dataset of files that somebody else made.

    Attributes:
        remedy: What to download, and where it goes.
    """

    remedy: ClassVar[str]

    exclude: tuple[str, ...] = Field(
        default=(),
        description="Images to leave out, as paths in root without suffix, e.g. images/15188.",
    )

    def pair(self, split: Split, images: str, labels: str | None, **suffixes: str) -> Part:
        """List a folder of images with a folder of labels; as `labelled_like`."""
        return labelled_like(split, self.folder, images, labels, remedy=self.remedy, **suffixes)
