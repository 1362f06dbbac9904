"""Every preset is a params file that loads, and `ssr init` never costs anybody's edits."""

from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from benchmarks.runs import overrides_of
from pipeline.params import load_params
from pipeline.presets import ARMS, BASES, PRESETS, changes_of, render
from store.errors import ConfigError
from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import REPOSITORY, demand

PARAMS = Path("params.yaml")
WITHOUT_TARGET: Final = "gta5-generalization"
REFINED: Final = "gta5-generalization-rein"
TWO_SCALES: Final = "gta5-to-cityscapes-hrda"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def own_file(name: str) -> str:
    return (REPOSITORY / "pipeline" / "presets" / f"{name}.yaml").read_text()


def packaged(name: str) -> str:
    """What `ssr init` writes where no arm and no folder is named."""
    return render(name, roots={}) if name in BASES else own_file(name)


def tree(text: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = YAML(typ="safe").load(text)
    return values


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_as_it_is_packaged(name: str) -> None:
    said = demand("init", "--preset", name)
    assert name in said
    assert "ssr prepare" in said
    assert PARAMS.read_text() == packaged(name)
    load_params(PARAMS)


@pytest.mark.parametrize("name", BASES)
def test_a_preset_that_builds_on_another_has_its_values_but_for_those_of_its_own(name: str) -> None:
    own, base = tree(own_file(name)), tree(packaged(BASES[name]))
    expected = {
        section: (values or {}) | own[section] if section in own else values
        for section, values in base.items()
    }
    text = render(name, roots={})
    assert tree(text) == expected
    assert set(own_file(name).splitlines()) <= set(text.splitlines())
    assert text.startswith(f"# {name}: ")
    assert f"# {BASES[name]}: " not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (f"{WITHOUT_TARGET} --arm guided", "to ["),
        (f"{WITHOUT_TARGET} --arm agree", "has no train.self_training, which agree changes"),
        (f"{WITHOUT_TARGET} --arm distil-first", "train.distill needs prepare.target"),
        (f"{WITHOUT_TARGET} --target /data/target", "leave out --target"),
        (f"{REFINED} --arm rein-cached", "nothing to refine"),
        ("gta5-to-cityscapes --arm rein", "rein_vfm and the section rein belong together"),
        (f"{TWO_SCALES} --arm guided", "set student.hrda to null, or the kind to ssr"),
    ],
)
def test_a_preset_refuses_what_it_cannot_be_combined_with(words: str, says: str) -> None:
    assert_refused(f"init --preset {words}", says)
    assert not PARAMS.exists()


@pytest.mark.parametrize("name", ["folders", "cityscapes-to-acdc"])
@pytest.mark.parametrize("root", ["C:\\data", "~/it's: here #1"])
def test_folders_are_put_in_and_all_else_is_kept(name: str, root: str) -> None:
    demand("init", "--preset", name, "--source", root, "--target", "/data/target")
    prepare = load_params(PARAMS).prepare
    assert prepare.target is not None
    assert (prepare.source.root, prepare.target.root) == (root, "/data/target")
    before, after = packaged(name).splitlines(), PARAMS.read_text().splitlines()
    assert len(before) == len(after)
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert all(line.startswith("    root: ") for line in changed)
    assert len(changed) == 2


def test_an_arm_differs_in_what_it_is_named_after_and_in_no_other_line() -> None:
    takers: dict[str, list[str]] = {arm: [] for arm in ARMS}
    for name in PRESETS:
        PARAMS.write_text(packaged(name))
        before = PARAMS.read_text().splitlines()
        for arm in ARMS:
            try:
                text = render(name, arm=arm, roots={})
                Path("arm.yaml").write_text(text)
                params = load_params(Path("arm.yaml"))
            except ConfigError:
                continue
            takers[arm].append(name)
            assert params == load_params(PARAMS, overrides_of(arm))
            after = text.splitlines()
            keys = {key.rpartition(".")[2] for key in changes_of(arm)}
            assert {line.split(":")[0].strip() for line in after if line not in before} <= keys
            kept = [line for line in after if line in before]
            assert [line for line in before if line in after] == kept
    assert all(takers.values())
    assert all(len(takers[arm]) == len(PRESETS) for arm in ("source-only", "daformer", "ssr"))
    for name in ("drawn", "folders", "gta5-to-cityscapes"):
        refused = {arm for arm in ARMS if name not in takers[arm]}
        assert refused == {"restyled", "rein", "rein-frozen", "rein-lora", "rein-full"}


@pytest.mark.parametrize(
    ("arm", "key", "values"),
    [
        ("ssr-mic", "masking", {"block_px": 32, "ratio": 0.7, "weight": 1.0}),
        ("semask", "semask", {"window": 8, "attention": True, "aux_weight": 0.4}),
        ("guided", "regularizer", {"kind": "guided", "student_drop": 0.5}),
    ],
)
def test_an_arm_has_the_values_of_its_paper(arm: str, key: str, values: dict[str, Any]) -> None:
    demand("init", "--preset", "gta5-to-cityscapes", "--arm", arm)
    train = load_params(PARAMS).model_dump()["train"]
    assert values.items() <= {**train, **train["student"]}[key].items()


def test_the_shipped_params_are_the_preset_of_the_drawn_world() -> None:
    assert (REPOSITORY / "params.yaml").read_text() == render("drawn", arm="guided", roots={})


def test_a_file_that_nobody_edited_is_replaced() -> None:
    demand("init", "--preset", "drawn")
    demand("init", "--preset", "folders", "--source", "/data/mine")
    demand("init", "--preset", "camvid-day-to-dusk")
    assert PARAMS.read_text() == packaged("camvid-day-to-dusk")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  seed: 0", "  seed: 1"),
        ("# drawn", "# my notes"),
        ("    kind: drawn", "    kind: [drawn"),
    ],
    ids=["value", "comment", "broken"],
)
def test_an_edited_file_is_kept_unless_forced(old: str, new: str) -> None:
    text = packaged("drawn")
    assert old in text
    PARAMS.write_text(text.replace(old, new))
    edited = PARAMS.read_bytes()
    assert_refused("init --preset folders", "params.yaml was edited", "--force")
    assert PARAMS.read_bytes() == edited
    demand("init", "--preset", "folders", "--force")
    assert PARAMS.read_text() == packaged("folders")
