"""The `prepare` section of params.yaml."""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from stages.fields import Name, PathText, Section, Seed, SidePx

Domain = Literal["source", "target"]
Split = Literal["train", "val"]

Byte = Annotated[int, Field(ge=0, le=255)]
RGB = tuple[Byte, Byte, Byte]


def _inside_root(path: str) -> str:
    if not path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} must be a path inside root, written relative to it")
    return PurePosixPath(path).as_posix()


PathInRoot = Annotated[Name, AfterValidator(_inside_root)]


class _Source(Section):
    root: PathText = Field(description="Folder of the dataset.")
    fit_px: tuple[SidePx, SidePx] | None = Field(
        description="Width and height that images are scaled to fit in; null keeps their size."
    )


class FileSource(_Source):
    """A dataset of files that somebody else made."""

    exclude: tuple[str, ...] = Field(
        default=(),
        description="Images to leave out, as paths in root without suffix, e.g. images/15188.",
    )


class DrawnConfig(_Source):
    """A street world that is drawn into `root` on first use."""

    kind: Literal["drawn"] = Field(description="Which dataset this is.")
    style: Literal["day", "dusk", "fog", "night", "wide"] = Field(
        description="Light, colours and textures: `day`, a target (`dusk`, `fog`, `night`), or "
        "`wide`, another random look for each image with the neighbourhood of the targets left out."
    )
    strength: float = Field(
        ge=0,
        le=1,
        description="How far a target's style is from the day: 1 is the whole of it, 0 is the day; "
        "1 with `day` and `wide`.",
    )
    seed: Seed = Field(description="Of the scenes; two seeds have no scene in common.")
    width_px: int = Field(ge=64, le=4096, description="Width of the drawn images.")
    height_px: int = Field(ge=64, le=4096, description="Height of the drawn images.")
    train: int = Field(ge=1, le=100_000, description="Number of images to train on.")
    val: int = Field(ge=0, le=100_000, description="Number of labelled images to evaluate on.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strength != 1 and self.style in {"day", "wide"}:
            raise ValueError(
                f"strength is of the styles dusk, fog and night: set it to 1 with {self.style}"
            )
        return self


class CamvidSplits(Section):
    """Which folder of CamVid is which split."""

    train: PathInRoot = Field(description="Folder of the split to train on, e.g. day_train.")
    val: PathInRoot | None = Field(description="Folder of the labelled split, or null.")


class CamvidConfig(FileSource):
    """CamVid with 11 classes: `<split folder>/images/*.jpg` and `labels/*.png`."""

    kind: Literal["camvid"] = Field(description="Which dataset this is.")
    splits: CamvidSplits = Field(description="Folders to train on and to evaluate on.")


class Gta5Config(FileSource):
    """GTA5 as published: `images/*.png` and `labels/*.png`."""

    kind: Literal["gta5"] = Field(description="Which dataset this is.")
    val_list: PathInRoot | None = Field(
        description="Text file of image names, one a line, to hold out as val; null trains on all."
    )


class CityscapesConfig(FileSource):
    """Cityscapes as published: `leftImg8bit/{train,val}` and `gtFine/{train,val}`."""

    kind: Literal["cityscapes"] = Field(description="Which dataset this is.")


class SynthiaConfig(FileSource):
    """SYNTHIA-RAND-CITYSCAPES as published: `RGB/*.png` and `GT/LABELS/*.png`, all to train on.

    Of the 19 classes, terrain, truck and train are never labelled.
    """

    kind: Literal["synthia"] = Field(description="Which dataset this is.")


class AcdcConfig(FileSource):
    """ACDC as published: `rgb_anon/<condition>/{train,val}` and `gt/<condition>/{train,val}`."""

    kind: Literal["acdc"] = Field(description="Which dataset this is.")
    conditions: tuple[Literal["fog", "night", "rain", "snow"], ...] = Field(
        min_length=1, description="Which of its conditions are taken, for both splits."
    )


class DarkZurichConfig(FileSource):
    """Dark Zurich as published: unlabelled `rgb_anon/train`, 50 labelled images by night as val."""

    kind: Literal["dark_zurich"] = Field(description="Which dataset this is.")
    train_times: tuple[Literal["day", "twilight", "night"], ...] = Field(
        min_length=1, description="Times of day that are trained on; val is by night."
    )


class Bdd100kConfig(FileSource):
    """BDD100K's 10k images: `images/10k/{train,val}` and `labels/sem_seg/masks/{train,val}`."""

    kind: Literal["bdd100k"] = Field(description="Which dataset this is.")


class MapillaryConfig(FileSource):
    """Mapillary Vistas with the 66 classes of v1.2: `{training,validation}/{images,labels}`."""

    kind: Literal["mapillary"] = Field(description="Which dataset this is.")


class FolderClass(Section):
    """One class of a user's own dataset."""

    name: Name = Field(description="Name in tables and pictures.")
    color: RGB = Field(description="Colour in pictures, and in label files that store colours.")
    ids: tuple[Byte, ...] = Field(
        default=(), description="Values of the class in label files that store ids."
    )


class FolderConfig(FileSource):
    """Any folders of images and label PNGs; a label has its image's path and name, or nearly."""

    kind: Literal["folder"] = Field(description="Which dataset this is.")
    train_images: PathInRoot | None = Field(
        description="Folder of the images to train on; null for a dataset that only measures."
    )
    train_labels: PathInRoot | None = Field(
        description="Folder of their labels; null for a target, where they are not looked at."
    )
    val_images: PathInRoot | None = Field(description="Folder of images to evaluate on, or null.")
    val_labels: PathInRoot | None = Field(description="Folder of their labels, or null.")
    val_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of the training images, the last by name, that is held out to evaluate "
        "on where val_images is null.",
    )
    image_suffix: str = Field(
        default="",
        description="End of image names, before the dot, that labels lack: _leftImg8bit.",
    )
    label_suffix: str = Field(
        default="", description="End of label names that images lack: a_L.png of a.jpg has _L."
    )
    classes: tuple[FolderClass, ...] = Field(
        min_length=2, max_length=255, description="Classes in the order of their train ids."
    )
    ignore_ids: tuple[Byte, ...] = Field(
        default=(), description="Values of pixels without a class."
    )
    ignore_colors: tuple[RGB, ...] = Field(
        default=(), description="Their colours, in label files that store colours."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.val_images is None) != (self.val_labels is None):
            raise ValueError("val_images and val_labels go together: set both or neither")
        if self.val_share is not None and (
            self.val_images is not None or self.train_images is None or self.train_labels is None
        ):
            raise ValueError(
                "val_share holds out labelled images of train: set it to null where val_images is "
                "given, or there are no train_labels"
            )
        ids = [i for entry in self.classes for i in entry.ids]
        for what, values in (
            ("class name", [entry.name for entry in self.classes]),
            ("label id", [*ids, *self.ignore_ids]),
            ("colour", [*(entry.color for entry in self.classes), *self.ignore_colors]),
        ):
            twice = [value for value, times in Counter[object](values).items() if times > 1]
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is used twice in the class table")
        return self


SourceConfig = Annotated[
    DrawnConfig
    | CamvidConfig
    | Gta5Config
    | SynthiaConfig
    | CityscapesConfig
    | AcdcConfig
    | DarkZurichConfig
    | Bdd100kConfig
    | MapillaryConfig
    | FolderConfig,
    Field(discriminator="kind"),
]


class PrepareConfig(Section):
    """What to train on: a labelled source domain and the target domain to adapt to."""

    source: SourceConfig = Field(description="The labelled domain.")
    target: SourceConfig | None = Field(
        description="The domain to adapt to, unlabelled in training; null for source only."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.source, FolderConfig) and self.source.train_labels is None:
            raise ValueError("source.train_labels is null: the source is what labels come from")
        if isinstance(self.source, DarkZurichConfig):
            raise ValueError(
                "source.kind is dark_zurich, whose training images have no labels: the source is "
                "what labels come from"
            )
        for domain, config in self.domains.items():
            if isinstance(config, FolderConfig) and config.train_images is None:
                raise ValueError(f"{domain}.train_images is null: name the images to train on")
        return self

    @property
    def domains(self) -> dict[Domain, SourceConfig]:
        """The domains that there are, source first."""
        if self.target is None:
            return {"source": self.source}
        return {"source": self.source, "target": self.target}

    @property
    def roots(self) -> dict[Domain, Path]:
        """Where the paths of the manifest begin, per domain; `~` is expanded."""
        return {domain: root_of(config) for domain, config in self.domains.items()}


def root_of(config: SourceConfig) -> Path:
    """Return the dataset's folder with `~` expanded."""
    return Path(config.root).expanduser()


def keys_of(config: SourceConfig) -> dict[str, Any]:
    """Return what a dataset is, in JSON's types, wherever its folder lies."""
    return config.model_dump(mode="json", exclude={"root"})
