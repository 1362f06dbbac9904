"""Mistakes in params.yaml and on the command line."""

from pathlib import Path

import pytest

from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    copy,
    edit,
    identifier,
    params,
    remove,
    write,
)
from tests.pipeline.workplace import change_params

CASES = [
    Case(
        "no params file",
        "prepare",
        ("params.yaml", "no such file", "ssr init"),
        remove("params.yaml"),
    ),
    Case(
        "params file elsewhere",
        "train --params other.yaml",
        ("other.yaml", "no such file", "ssr init"),
    ),
    Case("params file is a folder", "prepare --params photos", ("photos", "ssr init")),
    Case(
        "params file is no YAML",
        "prepare",
        ("params.yaml", "line 3", "YAML"),
        write("prepare:\n  source:\n kind: [\n"),
    ),
    Case(
        "params file with a tab",
        "prepare",
        ("params.yaml", "line 2", "YAML"),
        write("prepare:\n\tsource: 1\n"),
    ),
    Case(
        "key written twice",
        "prepare",
        ("params.yaml", "line 2", "duplicate key", "mend it there"),
        write("prepare: {}\nprepare: {}\n"),
    ),
    Case(
        "params file is binary",
        "prepare",
        ("params.yaml", "YAML"),
        copy("photos/day/images/00000.png", "params.yaml"),
    ),
    Case(
        "params file is UTF-16",
        "prepare",
        ("params.yaml: is no valid YAML", "utf-8"),
        lambda: Path("params.yaml").write_bytes(Path("params.yaml").read_text().encode("utf-16")),
    ),
    Case(
        "params file is nested without end",
        "prepare",
        ("params.yaml: is no valid YAML", "recursion"),
        write("prepare: " + "[" * 2000),
    ),
    Case(
        "params file with a number without end",
        "prepare",
        ("params.yaml: is no valid YAML", "digits"),
        write("prepare: " + "9" * 5000),
    ),
    Case(
        "params file of a billion laughs",
        "prepare",
        ("params.yaml: prepare is [[", "[...]", "should be a section"),
        write(
            "prepare:\n- &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n"
            + "".join(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        ),
    ),
    Case("params file is empty", "prepare", ("params.yaml", "no sections", "ssr init"), write("")),
    Case(
        "params file is a list",
        "prepare",
        ("params.yaml", "no sections", "ssr init"),
        write("- prepare\n"),
    ),
    Case(
        "section left out",
        "prepare",
        ("params.yaml", "prepare is missing", "ssr init"),
        write("train: {}\n"),
    ),
    Case(
        "unknown key",
        "train",
        ("params.yaml", "train.iteratons", "did you mean train.iterations?"),
        params(train={"iteratons": 10}),
    ),
    Case(
        "unknown key like no other",
        "train",
        ("train.optimizer.zzz", "known here: lr, "),
        params(train={"optimizer.zzz": 10}),
    ),
    Case(
        "unknown section",
        "train",
        ("trian", "did you mean train?"),
        lambda: change_params(Path(), {"trian": {}}),
    ),
    Case(
        "number as a key",
        "train",
        ("params.yaml", "train.7 is no known key"),
        lambda: edit(Path("params.yaml"), "  iterations: 4", "  iterations: 4\n  7: 1"),
    ),
    Case(
        "unknown key of a source",
        "prepare",
        ("prepare.source.exlude", "did you mean prepare.source.exclude?"),
        params(prepare={"source.exlude": []}),
    ),
    Case(
        "unknown key of a target's splits",
        "prepare",
        ("prepare.target.splits.vall", "did you mean prepare.target.splits.val?"),
        params(prepare={"target.splits.vall": "dusk"}),
    ),
    Case(
        "key of another kind of source",
        "prepare",
        ("prepare.source.val_list", "no known key"),
        params(prepare={"source.val_list": None}),
    ),
    Case(
        "unknown kind of source",
        "prepare",
        ("prepare.source.kind", "camvdi", "gta5, synthia, cityscapes, acdc"),
        params(prepare={"source.kind": "camvdi"}),
    ),
    Case(
        "no kind of source",
        "prepare",
        ("prepare.source.kind", "missing"),
        params(prepare={"source": {"root": "photos"}}),
    ),
    Case(
        "text for a source",
        "prepare",
        ("prepare.source", "photos"),
        params(prepare={"source": "photos"}),
    ),
    Case(
        "value out of range",
        "train",
        ("train.crop_px", "100", "multiple of 32"),
        params(train={"crop_px": 100}),
    ),
    Case(
        "share above one", "embed", ("embed.overlap", "0.9", "0.5"), params(embed={"overlap": 0.9})
    ),
    Case(
        "text for a number",
        "train",
        ("train.iterations", "'many'", "integer"),
        params(train={"iterations": "many"}),
    ),
    Case("number for a section", "train", ("train.student", "3"), params(train={"student": 3})),
    Case(
        "list for a section",
        "train",
        ("embed", "section"),
        lambda: change_params(Path(), {"embed": list(range(500))}),
    ),
    Case(
        "three levels for four stages",
        "train",
        ("train.regularizer.levels", "has 3 values", "needs more"),
        params(train={"regularizer.levels": ["stride8"] * 3}),
    ),
    Case(
        "level that there is not",
        "embed",
        ("embed.levels.0", "'stride4'", "'stride8'"),
        params(embed={"levels": ["stride4"]}),
    ),
    Case(
        "crop off the grid of the level",
        "train",
        ("train", "crop_align_px 8", "stride32", "set it to 32"),
        params(train={"regularizer.levels": ["stride32"] * 4, "crop_align_px": 8}),
    ),
    Case(
        "mixed images without self-training",
        "train",
        ("mixed", "self_training is null"),
        params(train={"self_training": None}),
    ),
    Case(
        "domain that training reads is not to be embedded",
        "embed",
        ("params.yaml: embed.domains ['source'] lacks target", "add it there"),
        params(embed={"domains": ["source"]}),
    ),
    Case(
        "level that training reads is not to be embedded",
        "embed -S train.regularizer.levels=[stride8,stride16,stride16,null]",
        ("embed.levels ['stride8'] lacks stride16", "add it there"),
    ),
    Case(
        "self-training without target",
        "prepare -S prepare.target=null",
        ("train.self_training needs prepare.target", "null"),
    ),
    Case(
        "store at an address",
        "embed -S store.url=gs://bucket/features",
        ("store.url: gs://bucket/features is neither a folder nor s3://",),
    ),
    Case(
        "NUL in a path",
        "prepare -S 'prepare.source.root=\"a\\0b\"'",
        ("prepare.source.root: 'a\\x00b' holds a control character",),
    ),
    *(
        Case(
            f"home of nobody in {key}",
            f"train -S {key}=~nosuchuser/x",
            (f"{key}: ~nosuchuser/x: there is no such user",),
        )
        for key in (
            "prepare.target.root",
            "store.url",
            "embed.teacher.weights",
            "train.init",
            "train.student.weights",
        )
    ),
    Case(
        "store in the home of nobody", "inspect ~nosuchuser/x.zarr", ("~nosuchuser", "no such user")
    ),
    Case(
        "photos in the home of nobody",
        "predict runs ~nosuchuser/x --out predicted",
        ("~nosuchuser", "no such user"),
    ),
    # --set
    Case("set without a value", "train -S train.seed", ("--set train.seed", "section.key=value")),
    Case("set without a section", "train -S seed=1", ("--set seed=1", "section.key=value")),
    Case(
        "set in an unknown section",
        "train -S trian.seed=1",
        ("--set trian.seed=1: trian is no known key", "did you mean train?"),
    ),
    Case("set without a key", "train -S =1", ("--set =1", "section.key=value")),
    Case("set with an empty key", "train -S train.=1", ("--set train.=1", "section.key=value")),
    Case("set with broken YAML", "train -S train.seed=[", ("--set train.seed=[", "YAML")),
    Case(
        "set below a number",
        "train -S train.seed.now=1",
        ("--set train.seed.now=1", "no keys below"),
    ),
    Case(
        "set below a null",
        "train -S train.masking.ratio=0.5",
        ("--set train.masking.ratio=0.5", "no keys below"),
    ),
    Case(
        "set of an unknown key",
        "train -S train.sed=1",
        ("--set train.sed=1", "did you mean train.seed?"),
    ),
    # init
    Case("unknown preset", "init --preset drwan", ("drwan", "drawn, camvid-day-to-dusk")),
    Case("unknown arm", "init --preset drawn --arm daformr", ("daformr", "daformer, daformer-mic")),
    Case("init over an edited file", "init --preset drawn", ("params.yaml", "edited", "--force")),
]


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_mistake_in_the_parameters_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)
