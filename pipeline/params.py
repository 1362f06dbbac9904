"""Reading `params.yaml`: strict sections, one readable line for whatever is wrong."""

import reprlib
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any, Final, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.embed.config import EmbedConfig
from stages.evaluate.config import EvaluateConfig
from stages.fields import Domain, PathText, Section, Split
from stages.label.stage import LabelConfig
from stages.prepare.stage import PrepareConfig
from stages.restyle.stage import RestyleConfig
from stages.train.config import TrainConfig
from store.codec import CodecName, Projection
from store.errors import ConfigError
from store.files import Url, files_at, parse_url
from store.spec import MOST_CHANNELS, Level

LONGEST_VALUE: Final = 60
"""Characters of a value that one line has room for."""

_VALUES = reprlib.Repr()  # aliases can make a small file an endless text
_VALUES.maxstring = _VALUES.maxother = LONGEST_VALUE
_VALUES.maxlevel = 2

_NO_KEY = ("extra_forbidden", "invalid_key")  # pydantic's names; the second is no text at all


class StoreConfig(Section):
    """Section `store`: where features lie and how they are packed."""

    url: PathText = Field(
        description="Folder or s3://bucket/prefix of the stores; a folder is absolute for "
        "`dvc exp run --temp` and `--queue`."
    )
    shard_images: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="Images per shard, the unit of writing and resuming."
    )
    codec: CodecName = Field(description="How tokens are stored.")
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)] | None = Field(
        description="Principal components to store of each level, found on a sample of the images; "
        "null stores all channels of the teacher."
    )
    whiten: bool = Field(
        description="Scale these components to unit variance; false where `channels` is null."
    )

    @property
    def location(self) -> Url:
        """The folder, `~` expanded, or the S3 prefix."""
        return parse_url(self.url)

    @property
    def projection(self) -> Projection | None:
        """What is stored of the teacher's channels; None is all of them."""
        return None if self.channels is None else Projection(self.channels, self.whiten)

    @model_validator(mode="after")
    def _whitens_components(self) -> Self:
        if self.whiten and self.channels is None:
            raise ValueError("whiten needs `channels`, which is null: set a number of components")
        return self

    @field_validator("url")
    @classmethod
    def _is_folder_or_s3(cls, url: str) -> str:
        files_at(url)  # refuses what is neither
        return url


class Params(Section):
    """All of `params.yaml`, a section for each stage and one for the store."""

    prepare: PrepareConfig = Field(description="Datasets.")
    restyle: RestyleConfig | None = Field(
        description="Images of the source in other styles; null makes none."
    )
    store: StoreConfig = Field(description="Feature stores.")
    embed: EmbedConfig = Field(description="Stage one.")
    label: LabelConfig = Field(description="Labels of the target from the stores.")
    train: TrainConfig = Field(description="Stage two.")
    evaluate: EvaluateConfig = Field(description="Metrics and pictures.")

    @model_validator(mode="after")
    def _embeds_what_training_reads(self) -> Self:
        """Say before a ten-hour embed what would be missing after it."""
        if self.train.crop_px > self.prepare.pad_to_px:
            raise ValueError(
                f"prepare.pad_to_px {self.prepare.pad_to_px} is less than train.crop_px "
                f"{self.train.crop_px}: raise it, so that crops fit, or lower train.crop_px"
            )
        for key in ("self_training", "distill"):
            if getattr(self.train, key) is not None and self.prepare.target is None:
                raise ValueError(f"train.{key} needs prepare.target, which is null")
        domains = self.read_domains
        for key, wanted, given in (
            ("domains", domains, self.embed.domains),
            ("levels", self.read_levels, self.embed.levels),
            ("splits", {"train"} if domains else set(), self.embed.splits),
        ):
            for missing in sorted(wanted - set(given)):
                raise ValueError(
                    f"embed.{key} {list(given)} lacks {missing}, which training reads; add it there"
                )
        if self.embed.teacher.known:
            offered = self.embed.teacher.levels()
            self.train.require_aligned(Level(*offered[name][:2]) for name in self.read_levels)
        return self

    @model_validator(mode="after")
    def _restyles_what_training_reads(self) -> Self:
        if self.restyle and self.restyle.styles == "target" and self.prepare.target is None:
            raise ValueError(
                "restyle.styles is target, but prepare.target is null: set it to source"
            )
        wanted: tuple[tuple[str, bool, Split], ...] = (
            ("embed.domains restyled", "restyled" in self.embed.domains, "train"),
            ("train.restyled", self.train.restyled is not None, "train"),
            ("train.validate_on proxy", self.train.validate_on == "proxy", "val"),
        )
        for key, is_wanted, split in wanted:
            if is_wanted and self.restyle is None:
                raise ValueError(f"{key} needs section restyle, which is null")
            if is_wanted and self.restyle and split not in self.restyle.splits:
                raise ValueError(
                    f"restyle.splits {list(self.restyle.splits)} lacks {split}, which {key} reads; "
                    "add it there"
                )
        return self

    @property
    def reads_restyled(self) -> bool:
        """Whether training or its validation reads restyled images."""
        return self.train.restyled is not None or self.train.validate_on == "proxy"

    @property
    def wanted_label(self) -> LabelConfig | None:
        """Section `label` where training asks for labels from the store, else None."""
        return self.label if self.train.reads_labels else None

    @property
    def read_domains(self) -> set[Domain]:
        """Domains whose features training reads, or the classifier of its labels."""
        label: set[Domain] = {"source", "target"} if self.wanted_label else set()
        found = {*self.train.read_domains} | label
        if found and self.prepare.target is not None and self.prepare.target.labelled:
            found.add("target")
        return found

    @property
    def read_levels(self) -> set[str]:
        """Levels that training reads, or the classifier of its labels."""
        label = {self.wanted_label.level} if self.wanted_label else set()
        return {*self.train.used_levels} | label


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """Read and check a params file; overrides are `section.key=value` each, of YAML values.

    Raises:
        ConfigError: One line that names file, key and fault.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; `ssr init --preset drawn` writes one")
    tree = _load_yaml(path.read_bytes(), str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no sections; `ssr init --preset drawn` writes a full one")
    for override in overrides:
        _set(tree, override)
    return validate_params(tree, origin=str(path), overrides=overrides)


def validate_params(tree: dict[str, Any], *, origin: str, overrides: Sequence[str] = ()) -> Params:
    """Check the content of a params file; as `load_params`."""
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, tree, origin, overrides)) from error


def _load_yaml(text: str | bytes, where: str) -> Any:  # noqa: ANN401 - YAML
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # of numbers, dates and encodings
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        line = f" at line {mark.line + 1}" if mark else ""
        reason = shorten(str(problem or error).partition("\n")[0], LONGEST_VALUE)
        raise ConfigError(f"{where}: is not valid YAML{line} ({reason}); correct it") from error


def _set(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    *parents, last = key.split(".")
    shown = _cut(override)
    section = not parents and last in Params.model_fields
    if not separator or not (parents or section) or not all((*parents, last)):
        raise ConfigError(f"--set {shown}: write it as section.key=value")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {shown}: {parent} has no keys below it")
    tree[last] = _load_yaml(text, f"--set {shown}")


def _explain(
    error: ValidationError, tree: dict[str, Any], origin: str, overrides: Sequence[str]
) -> str:
    """Name the first fault and count the rest; a mistyped key comes before the missing one."""
    faults = sorted(error.errors(), key=lambda fault: fault["type"] not in _NO_KEY)
    fault = faults[0]
    key = _key_of(fault, tree)
    where = origin
    for override in overrides:
        changed, wrong = f"{override.partition('=')[0]}.", f"{key}."
        if wrong.startswith(changed) or (fault["type"] in _NO_KEY and changed.startswith(wrong)):
            where = f"--set {_cut(override)}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {_describe(key, fault)}{more}"


def _key_of(fault: ErrorDetails, tree: Any) -> str:  # noqa: ANN401 - YAML
    """Return where a fault is, without the kinds that pydantic puts between the keys."""
    keys = []
    for part in fault["loc"]:
        try:
            tree = tree[part]
        except (LookupError, TypeError):
            if fault["type"] != "missing" or part != fault["loc"][-1]:
                continue
        keys.append(str(part))
    if fault["type"].startswith("union_tag"):
        keys.append("kind")
    return ".".join(keys)


def _describe(key: str, fault: ErrorDetails) -> str:
    given = fault["input"]
    match fault["type"]:
        case kind if kind in _NO_KEY:
            return f"{key} is not a known key; docs/params.md lists them"
        case "missing" | "union_tag_not_found":
            return f"{key} is missing; `ssr init` writes every key"
        case "union_tag_invalid":
            kinds = fault["ctx"]["expected_tags"].replace("'", "")
            return f"{key} is {_brief(given['kind'])}; it is one of {kinds}"
        case "model_type" | "model_attributes_type":
            return f"{key} is {_brief(given)}, but should be a section with keys of its own"
        case "value_error":
            return f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
        case _:
            return f"{key} is {_brief(given)}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _brief(value: object) -> str:
    return _cut(_VALUES.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
