"""Manifests and stores that are missing, damaged, or of something else."""

import os
from pathlib import Path

import pytest

from store.files import files_at
from store.lease import WHOLE, writer_lease
from tests.pipeline.mistakes import (
    Case,
    assert_one_line_and_nothing_lost,
    assert_refused,
    cut_in_half,
    edit,
    embed_the_source_alone,
    flip_bits_of_the_target,
    identifier,
    params,
    remove,
    save_half_a_teacher,
    save_teacher,
)
from tests.pipeline.workplace import demand, shard, stored, the_store

SOURCE_ONLY: dict[str, dict[str, object]] = {
    "prepare": {"target": None},
    "embed": {"domains": ["source"]},
    "train": {"self_training": None, "regularizer.on": ["source"]},
}

CASES = [
    # the manifest
    Case(
        "embed before prepare",
        "embed",
        ("data/manifest.parquet", "no manifest", "ssr prepare"),
        remove("data/manifest.parquet"),
    ),
    Case(
        "damaged manifest",
        "train",
        ("data/manifest.parquet", "damaged", "ssr prepare"),
        cut_in_half("data/manifest.parquet"),
    ),
    Case(
        "target given up after prepare, then evaluate",
        "evaluate",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(**SOURCE_ONLY),
    ),
    Case(
        "target given up after prepare, then embed",
        "embed",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(**SOURCE_ONLY),
    ),
    Case(
        "target given up after prepare, then train",
        "train",
        ("data/manifest.parquet", "target", "ssr prepare"),
        params(**SOURCE_ONLY),
    ),
    *(
        Case(
            f"datasets changed after prepare, then {command}",
            f"{command} -S prepare.target.fit_px=[64,32]",
            ("data/manifest.parquet", "another prepare.target.fit_px", "ssr prepare"),
        )
        for command in ("plan", "embed", "train", "evaluate")
    ),
    Case(
        "crop larger than prepare knew",
        "train -S prepare.pad_to_px=96 -S train.crop_px=96 --out elsewhere",
        ("crop of 96x96", "working image of 64x128", "ssr prepare"),
    ),
    # teacher and stores
    Case(
        "no teacher weights",
        "embed -S embed.teacher.weights=sam.pth",
        ("sam.pth", "no such weight file", "embed.teacher.weights"),
    ),
    Case(
        "teacher weights of another architecture",
        "embed -S embed.teacher.weights=sam.pth -S embed.teacher.architecture=vit_b",
        ("sam.pth", "tiny", "vit_b", "change one"),
        lambda: save_teacher("sam.pth"),
    ),
    Case(
        "teacher weights that are a picture",
        "embed -S embed.teacher.weights=photos/day/images/00000.png",
        ("photos/day/images/00000.png", "not a weight file"),
    ),
    Case(
        "truncated teacher weights",
        "embed -S embed.teacher.weights=sam.pth",
        ("sam.pth", "damaged", "download it again"),
        save_half_a_teacher,
    ),
    Case(
        "official name, other content",
        "embed -S embed.teacher.weights=sam_vit_b_01ec64.pth -S embed.teacher.architecture=vit_b",
        ("sam_vit_b_01ec64.pth", "sha256", "download it again"),
        lambda: save_teacher("sam_vit_b_01ec64.pth"),
    ),
    Case(
        "student for a teacher",
        "embed -S embed.teacher.weights=runs/checkpoint.pt",
        ("runs/checkpoint.pt", "holds no table of tensors", "network weights"),
    ),
    Case(
        "split to embed that there is not",
        "embed -S embed.splits=[val] -S embed.domains=[source] -S train.regularizer.on=[]",
        ("no val images of domain source", "embed.splits", "ssr prepare"),
    ),
    Case(
        "store folder is a file",
        "embed -S store.url=params.yaml",
        ("params.yaml", "Not a directory", "correct the path"),
    ),
    Case(
        "train before embed",
        "train",
        ("data/index.json", "no index", "ssr embed"),
        remove("data/index.json"),
    ),
    Case(
        "damaged index",
        "train",
        ("data/index.json", "not an index of features", "ssr embed"),
        cut_in_half("data/index.json"),
    ),
    Case(
        "store moved away",
        "train",
        ("data/features/source/", "no feature store", "ssr embed"),
        remove("data/features/source"),
    ),
    Case(
        "shard deleted",
        "train",
        ("shard 1 of stride8", "target/train/", "data/features/target/", "ssr embed"),
        lambda: shard("target", 1).unlink(),
    ),
    Case(
        "shard cut off",
        "train",
        ("shard 0 of stride8", "data/features/source/", "ssr embed"),
        lambda: cut_in_half(str(shard("source", 0)))(),
    ),
    Case(
        "ledger entry deleted",
        "train",
        ("shard 0 of stride8", "data/features/source/", "ssr embed"),
        lambda: (the_store("source") / "ledger/stride8/000000.json").unlink(),
    ),
    Case(
        "bits of a shard flipped",
        "train -S train.seed=1 --out elsewhere",
        ("data/features/target/", "damaged", "ssr verify", "--repair"),
        flip_bits_of_the_target,
    ),
    Case(
        "store's metadata edited",
        "train",
        ("zarr.json", "data/features/source/", "ssr embed"),
        lambda: (the_store("source") / "stride8" / "zarr.json").write_text("{}"),
    ),
    Case(
        "store of another format",
        "train",
        ("data/features/source/", "format 3", "ssr embed"),
        lambda: edit(the_store("source") / "zarr.json", '"format": 2', '"format": 3'),
    ),
    Case(
        "teacher's seed changed, no embed since",
        "train -S embed.teacher.seed=1",
        ("data/index.json", "another teacher", "ssr embed", "old values"),
    ),
    Case(
        "overlap changed, no embed since",
        "train -S embed.overlap=0.25",
        ("data/index.json", "another tiling", "ssr embed", "old values"),
    ),
    Case(
        "teacher's weights changed, no embed since",
        "train -S embed.teacher.weights=sam.pth",
        ("data/index.json", "another teacher", "ssr embed", "old values"),
    ),
    Case(
        "level that is not stored",
        "train -S train.regularizer.levels=[stride16,stride8,stride8,stride8] "
        "-S embed.levels=[stride8,stride16]",
        ("data/features/source/", "no stride16", "embed.levels", "ssr embed"),
    ),
    Case(
        "domain that is not stored",
        "train",
        ("the index has no features of target", "embed.domains", "ssr embed"),
        embed_the_source_alone,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=identifier)
def test_a_store_that_cannot_be_used_is_one_line(case: Case, photos: Path) -> None:
    assert_one_line_and_nothing_lost(case, photos)


def test_a_second_writer_is_refused_and_the_first_keeps_its_store(photos: Path) -> None:
    shard("target", 0).unlink()
    before = stored(photos)
    with writer_lease(files_at(the_store("target")), WHOLE):
        assert_refused("embed", "data/features/target/", f"process {os.getpid()}", "wait for it")
    assert before.items() <= stored(photos).items()
    demand("embed")
