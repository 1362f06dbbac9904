"""Reading params.yaml: overrides, types, and the key and the cure in every error."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pipeline.params import Params, load_params
from store.errors import ConfigError
from tests.pipeline.workplace import SMALLEST, write_params


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_params(tmp_path, SMALLEST)
    return tmp_path / "params.yaml"


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_params(path, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def models(annotation: object) -> Iterator[type[BaseModel]]:
    """All models below a type, itself included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models(field.annotation)
    for part in get_args(annotation):
        yield from models(part)


def numbers(node: object, where: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    """All numbers of a JSON schema that are not one of a few."""
    if isinstance(node, Mapping):
        if node.get("type") in ("integer", "number") and not node.keys() & {"enum", "const"}:
            yield where, node
        for key, below in node.items():
            yield from numbers(below, f"{where}.{key}")
    elif isinstance(node, list):
        for position, below in enumerate(node):
            yield from numbers(below, f"{where}.{position}")


def test_every_number_is_bounded() -> None:
    found = dict(numbers(Params.model_json_schema()))
    free = {
        where
        for where, node in found.items()
        if not ({"minimum", "exclusiveMinimum"} & node.keys())
        or not ({"maximum", "exclusiveMaximum"} & node.keys())
    }
    assert len(found) > 50
    assert {where for where in free if "norm_eps" not in where} == set()  # one of two


def test_overrides_are_yaml_and_the_last_one_counts(path: Path) -> None:
    config = load_params(
        path,
        [
            "train.seed=1",
            "train.seed=7",
            "train.optimizer.lr=6e-5",
            "embed.levels=[stride8, stride32]",
            "train.masking={block_px: 32, ratio: 0.7, weight: 1}",
            "train.rare_class_sampling=null",
            "prepare.source.root=/data/a=b",
            "embed.teacher.weights='a file.pth'",
        ],
    )
    assert config.train.seed == 7
    assert config.train.optimizer.lr == 6e-5
    assert config.embed.levels == ("stride8", "stride32")
    assert config.train.masking is not None
    assert config.train.masking.ratio == 0.7
    assert config.train.rare_class_sampling is None
    assert config.prepare.source.root == "/data/a=b"
    assert config.embed.teacher.weights == "a file.pth"


def test_every_section_is_strict_and_every_key_explained_and_without_a_second_default() -> None:
    may_be_left_out = {
        # what data does without: nothing to leave out, no suffix, ids or colours alone
        *("exclude", "labelled", "val_share", "image_suffix", "label_suffix"),
        *("ids", "ignore_ids", "ignore_colors"),
        # null is off, as before there was one
        *("semask", "hrda", "refine", "rein", "views", "tune"),
    }
    for model in models(Params):
        assert model.model_config.get("extra") == "forbid", model
        assert model.model_config.get("frozen"), model
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.rstrip("`").endswith("."), f"{model.__name__}.{name}"
            assert field.is_required() or name in may_be_left_out, f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prepare:\n  source:\n kind: [\n", ["is not valid YAML at line 3"]),
        (b"\x89PNG\r\n\x1a\n\x00\xff", ["is not valid YAML"]),
        ("prepare: " + "[" * 2000, ["is not valid YAML", "recursion"]),
        ("", ["holds no sections", "ssr init"]),
        ("trian: {}\n", ["trian is not a known key", "(and 7 more)"]),
    ],
    ids=range(5),
)
def test_a_file_that_holds_no_params_is_one_line(
    path: Path, text: str | bytes, says: list[str]
) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(path)
    assert line.startswith(f"{path}: ")
    assert [part for part in says if part not in line] == []


def test_a_value_that_aliases_make_endless_is_cut(path: Path) -> None:
    value = "[x, x, x, x, x, x, x, x, x, x]"
    for level in range(12):
        value = f"[&a{level} {value}" + f", *a{level}" * 9 + "]"
    text = path.read_text().replace("  log_every: 2", f"  log_every: {value}")
    path.write_text(text)
    said = refused(path)
    assert "train.log_every is [[" in said
    assert len(said.replace(str(path), "")) < 200


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.seed", "write it as section.key=value"),
        ("train.seed=[", "is not valid YAML at line 1"),
        ("train.seed.now=1", "seed has no keys below it"),
        ("train.sed=1", "train.sed is not a known key"),
        ("train.crop_px=100", "train.crop_px is 100: input should be a multiple of 32"),
        ("prepare.source.kind=camvdi", "prepare.source.kind is 'camvdi'; it is one of "),
        ("prepare.source={root: photos}", "prepare.source.kind is missing"),
        ("prepare.source=photos", "prepare.source is 'photos', but should be a section"),
        ("store.url=gs://b/features", "store.url: gs://b/features is neither a folder nor s3://"),
        ('prepare.source.root="a\\0b"', "prepare.source.root: 'a\\x00b' holds a control character"),
    ],
)
def test_a_wrong_override_is_shown_with_what_is_allowed(
    path: Path, override: str, says: str
) -> None:
    assert refused(path, override).startswith(f"--set {override}: {says}")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["prepare.target=null"], "train.self_training needs prepare.target, which is null"),
        (["train.self_training=null"], "self_training is null"),
        (
            ["train.regularizer.levels=[stride8,stride16,stride16,null]"],
            "embed.levels ['stride8'] lacks stride16, which training reads; add it there",
        ),
        (
            [
                "train.regularizer.levels=[stride8,null,null,stride32]",
                "embed.levels=[stride8,stride32]",
                "train.crop_align_px=8",
            ],
            "train.crop_align_px 8 is not a multiple of 32 px",
        ),
        (["embed.flips=[horizontal]"], "['horizontal'] does not begin with none"),
        (["train.crop_px=96"], "prepare.pad_to_px 64 is less than train.crop_px 96"),
        (["embed.levels=[stride4]"], "no level stride4, which embed.levels names"),
    ],
)
def test_keys_that_are_at_odds_are_refused(path: Path, overrides: list[str], says: str) -> None:
    assert says in refused(path, *overrides)
