"""Case 7: rare class sampling."""

import numpy as np
from numpy.typing import NDArray

from stages.train.config import RareClassConfig
from stages.train.crops import RareClassSampler, class_probabilities, redraw_until_enough
from tests.parity.cases import Case, Reference, assert_close

STUB_PIXELS = [0, 1500, 1501, 3000]
"""What the stub of a source shows of the class: entry (image + read number) mod 4 (README)."""


def pixel_counts(case: Case) -> NDArray[np.int64]:
    """Pixels of every class id in each file; columns of absent classes are zero."""
    ids = case["in/class_ids"]
    counts = np.zeros((len(case["in/pixel_counts"]), int(ids.max()) + 1), np.int64)
    counts[:, ids] = case["in/pixel_counts"]
    return counts


def sampler(case: Case, temperature: float) -> RareClassSampler:
    counts = pixel_counts(case)
    config = RareClassConfig(
        temperature=temperature,
        min_pixels=case.meta["min_pixels"],
        min_crop_ratio=case.meta["min_crop_ratio"],
    )
    return RareClassSampler(counts, [str(c) for c in range(counts.shape[1])], config)


def test_the_counts_are_those_of_the_official_list(reference: Reference) -> None:
    case = reference("rcs")
    counts = pixel_counts(case)
    for row, stats in zip(counts, case.meta["sample_class_stats"], strict=True):
        official = {int(c): n for c, n in stats.items() if c != "file"}
        assert {c: n for c, n in enumerate(row) if n} == official


def test_classes_and_probabilities_are_the_official_ones(reference: Reference) -> None:
    case = reference("rcs")
    for temperature in case.meta["temperatures"]:
        classes, probabilities = class_probabilities(pixel_counts(case), temperature)
        assert probabilities.dtype == np.float32
        assert classes.tolist() == case[f"out/T{temperature}/classes"].tolist()
        assert_close(probabilities, case[f"out/T{temperature}/prob"], 5e-6)


def test_class_draws_are_the_official_ones(reference: Reference) -> None:
    case = reference("rcs")
    for temperature in case.meta["temperatures"]:
        [key] = case.keys(f"out/T{temperature}/class_draws_npseed")
        rng = np.random.RandomState(int(key.rpartition("seed")[2]))
        classes, probabilities = class_probabilities(pixel_counts(case), temperature)
        drawn = [rng.choice(classes, p=probabilities) for _ in case[key]]
        assert drawn == case[key].tolist()


def test_an_image_must_show_more_than_the_threshold(reference: Reference) -> None:
    case = reference("rcs")
    suits = sampler(case, case.meta["temperatures"][0]).eligible[:, case["in/class_ids"]]
    assert suits.astype(int).tolist() == case["out/eligible"].tolist()


def redraw(rare: RareClassSampler, class_id: int, image: int) -> tuple[int, int]:
    """Number of reads until the stub shows enough of the class, and the pixels it shows then."""
    reads = 0

    def read() -> NDArray[np.uint8]:
        nonlocal reads
        reads += 1
        return np.full(STUB_PIXELS[(image + reads) % len(STUB_PIXELS)], class_id, np.uint8)

    crop = redraw_until_enough(read, lambda crop: rare.enough(crop, class_id))
    return reads, len(crop)


def sequence(case: Case, targets: int) -> list[list[int]]:
    """Samples as the official sampler's columns, with its stub of a source."""
    settings = case.meta["sample_sequence"]
    rare = sampler(case, settings["T"])
    rng = np.random.RandomState(settings["np_seed"])
    rows = []
    for _ in case["out/sample_sequence"]:
        class_id, image = rare.draw(rng)
        rows.append([class_id, image, *redraw(rare, class_id, image), rng.choice(targets)])
    return rows


def test_class_image_redraws_and_target_follow_in_the_official_order(reference: Reference) -> None:
    # The number of targets is not recorded; the last one need not be among the draws.
    case = reference("rcs")
    expected = case["out/sample_sequence"].tolist()
    most = 1 + max(row[-1] for row in expected)
    assert any(sequence(case, targets) == expected for targets in range(most, 4 * most))
