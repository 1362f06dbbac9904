"""`ssr probe`, as a person types it."""

import json
from pathlib import Path

import pytest

from tests.pipeline.mistakes import assert_refused
from tests.pipeline.workplace import demand

BOTH = ("-S", "embed.splits=[train,val]")


def probed(*options: str) -> dict[tuple[str, str], float]:
    demand("probe", "--json", "probe.json", *options)
    report = json.loads(Path("probe.json").read_text())
    return {(row["features"], row["on"]): row["miou"] for row in report["rows"]}


def test_the_teacher_and_the_student_are_scored_on_every_embedded_val_split(
    workplace: Path,
) -> None:
    for command in ("prepare", "embed", "train"):
        demand(command, *BOTH)
    features = {"teacher stride8", *(f"student stage {stage}" for stage in (1, 2, 3, 4))}
    scores = probed(*BOTH, "--student", "runs")
    assert set(scores) == {(f, on) for f in features for on in ("source/val", "target/val")}
    assert all(0 <= score <= 100 for score in scores.values())
    assert scores["teacher stride8", "source/val"] > scores["teacher stride8", "target/val"]
    report = json.loads(Path("probe.json").read_text())
    assert report["learnt_on"] == 6
    assert report["teacher"]["trained"] is False
    row = report["rows"][0]
    assert row["images"] == 2
    assert set(row["iou"]) > {"sky", "road", "car"}
    again = probed(*BOTH)
    assert again == {key: s for key, s in scores.items() if key[0].startswith("teacher")}
    said = demand("probe", *BOTH, "--images", "4")
    assert "learnt from labels of 3 images of source/train" in said  # evenly spread over six
    assert "UNTRAINED TEACHER" in said


@pytest.mark.usefixtures("photos")
def test_without_features_of_labelled_target_images_a_line_says_what_to_embed() -> None:
    assert_refused(
        "probe", "no labelled image of target/val has features", "[train, val] in embed.splits"
    )
