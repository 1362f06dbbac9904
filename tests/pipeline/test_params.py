"""Reading params.yaml: overrides, types, and the key and the cure in every error."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pipeline.params import Params, load_params
from store.errors import ConfigError
from tests.pipeline.workplace import SMALLEST, change_params, write_params


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


@pytest.mark.parametrize(
    "value", ["-1", "-1e30", "1e30", ".nan", ".inf", str(2**70), f"0x{10**9000:x}"]
)
@pytest.mark.parametrize(
    "key",
    ["prepare.source.seed", "prepare.source.fit_px", "embed.batch_tiles", "train.optimizer.lr"],
)
def test_a_number_that_no_run_can_mean_is_one_line(path: Path, key: str, value: str) -> None:
    given = f"[{value}, {value}]" if key.endswith("fit_px") else value
    said = refused(path, f"{key}={given}")
    assert said.startswith(f"--set {key}=")
    assert f": {key}" in said
    assert len(said) < 300


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


def test_a_missing_key_can_be_given_on_the_command_line(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("  iterations: 4\n", ""))
    assert refused(path) == f"{path}: train.iterations is missing; `ssr init` writes every key"
    assert load_params(path, ["train.iterations=3"]).train.iterations == 3


def test_every_key_is_explained_in_one_sentence_and_has_no_second_default() -> None:
    # what data does without: nothing to leave out, no suffix, ids or colours alone
    may_be_left_out = {"exclude", "val_share", "image_suffix", "label_suffix"}
    may_be_left_out |= {"ids", "ignore_ids", "ignore_colors"}
    # null is off, as in what was saved before
    may_be_left_out |= {"semask", "hrda", "refine", "rein"}
    for model in models(Params):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            assert field.description.rstrip("`").endswith("."), f"{model.__name__}.{name}"
            assert field.is_required() or name in may_be_left_out, f"{model.__name__}.{name}"


def test_every_section_refuses_unknown_keys_and_changes() -> None:
    for model in models(Params):
        assert model.model_config.get("extra") == "forbid", model
        assert model.model_config.get("frozen"), model


@pytest.mark.parametrize(
    "wrong",
    [
        "trian",
        "train.optimizer.lrr",
        "prepare.source.widht_px",
        "prepare.traget",
    ],
)
def test_a_mistyped_key_is_named(path: Path, wrong: str) -> None:
    change_params(path.parent, {wrong: 1})
    assert refused(path).startswith(f"{path}: {wrong} is not a known key; docs/params.md")


def test_a_mistyped_key_comes_before_the_missing_one(path: Path) -> None:
    path.write_text(path.read_text().replace("  iterations: 4", "  iteratons: 4"))
    line = refused(path)
    assert "train.iteratons is not a known key" in line
    assert line.endswith("(and 1 more)")


def test_a_fault_deep_in_a_list_is_located(path: Path) -> None:
    write_params(path.parent, {}, preset="folders")
    path.write_text(path.read_text().replace("name: road,", "nam: road,"))
    assert "prepare.source.classes.0.nam is not a known key" in refused(path)


LAUGHS = "prepare:\n- &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prepare:\n  source:\n kind: [\n", ["is not valid YAML at line 3"]),
        (b"\x89PNG\r\n\x1a\n\x00\xff", ["is not valid YAML"]),
        ("prepare: {}".encode("utf-16"), ["is not valid YAML", "utf-8"]),
        ("prepare: " + "[" * 2000, ["is not valid YAML", "recursion"]),
        ("prepare: " + "9" * 5000, ["is not valid YAML", "digits"]),
        (LAUGHS, ["prepare is [[", "[...]", "should be a section"]),
        ("", ["holds no sections", "ssr init"]),
        ("train: {}\n", ["prepare is missing", "ssr init"]),
    ],
    ids=range(8),
)
def test_a_file_that_holds_no_params_is_one_line(
    path: Path, text: str | bytes, says: list[str]
) -> None:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refused(path)
    assert line.startswith(f"{path}: ")
    assert [part for part in says if part not in line] == []


def test_a_number_as_a_key_is_not_known(path: Path) -> None:
    path.write_text(path.read_text().replace("  iterations: 4", "  iterations: 4\n  7: 1"))
    assert refused(path).startswith(f"{path}: train.7 is not a known key")


@pytest.mark.parametrize(
    "key", ["prepare.target.root", "store.url", "embed.teacher.weights", "train.init"]
)
def test_the_home_of_nobody_is_refused(path: Path, key: str) -> None:
    assert f"{key}: ~nosuchuser/x: there is no such user" in refused(path, f"{key}=~nosuchuser/x")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.seed", "write it as section.key=value"),
        ("train.=1", "write it as section.key=value"),
        ("train.seed=[", "the value is not valid YAML"),
        ("train.seed.now=1", "seed has no keys below it"),
        ("trian.seed=1", "trian is not a known key"),
        ("train.sed=1", "train.sed is not a known key"),
        ("train.crop_px=100", "train.crop_px is 100: input should be a multiple of 32"),
        ("train.iterations=many", "train.iterations is 'many': input should be a valid integer"),
        ("train.student.norm_eps=0.1", "train.student.norm_eps: is 1e-6 (official) or 1e-5"),
        ("prepare.source.kind=camvdi", "prepare.source.kind is 'camvdi'; it is one of "),
        ("prepare.source.val_list=x", "prepare.source.val_list is not a known key"),
        ("prepare.source={root: photos}", "prepare.source.kind is missing"),
        ("prepare.source=photos", "prepare.source is 'photos', but should be a section"),
        ("train.regularizer.levels=[stride8]", "train.regularizer.levels.1 is missing"),
        ("train.student=[1]", "train.student is [1], but should be a section with keys"),
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
            "embed.levels ['stride8'] lacks stride16, which train.regularizer reads; add it there",
        ),
        (
            [
                "train.regularizer.levels=[stride32,stride32,stride32,stride32]",
                "train.crop_align_px=8",
            ],
            "lacks stride32",
        ),
        (
            [
                "train.regularizer.levels=[stride8,null,null,stride32]",
                "embed.levels=[stride8,stride32]",
                "train.crop_align_px=8",
            ],
            "train.crop_align_px 8 is not a multiple of 32 px",
        ),
        (["embed.levels=[stride4]"], "no level stride4, which embed.levels names"),
    ],
)
def test_keys_that_are_at_odds_are_refused(path: Path, overrides: list[str], says: str) -> None:
    assert says in refused(path, *overrides)


def test_a_huge_wrong_value_is_cut(path: Path) -> None:
    change_params(path.parent, {"embed": list(range(1000))})
    line = refused(path)
    assert line.endswith("...], but should be a section with keys of its own")
    assert len(line) - len(str(path)) < 160


def test_a_fault_of_the_file_is_not_blamed_on_an_override(path: Path) -> None:
    change_params(path.parent, {"train.crop_px": 100})
    assert refused(path, "train.seed=1").startswith(f"{path}: train.crop_px is 100")
    assert refused(path, "train.crop=64").startswith("--set train.crop=64: train.crop is not")


def test_a_crop_larger_than_the_padded_images_is_refused(path: Path) -> None:
    assert "prepare.pad_to_px 64 is less than train.crop_px 96" in refused(path, "train.crop_px=96")
