"""Case 6: colour jitter and blur, fed with the recorded draws."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stages.train.adaptation.augment import (
    SIGMA_PX,
    JitterDraw,
    Operation,
    StrongDraw,
    augment,
    blur,
    blur_side,
    denormalise,
    draw_strong,
    jitter_colors,
    mix,
    normalise,
)
from stages.train.config import SelfTrainingConfig
from tests.parity.cases import Case, Reference, assert_close

UNIT_TOL = 1e-5
NORMALISED_TOL = 5e-5


def recorded_jitter(case: Case, name: str) -> JitterDraw | None:
    """The jitter of a sub-case, None where there was none."""
    if not case.meta["subcases"][name]["jitter_applied"]:
        return None
    names: dict[str, Operation] = case.meta["ops"]
    return JitterDraw(
        {op: case.tensor(f"in/{name}/jitter_{op}_factor") for op in names.values()},
        tuple(names[str(index)] for index in case[f"in/{name}/jitter_order"]),
    )


def recorded_draw(case: Case, name: str) -> StrongDraw:
    """All draws of a sub-case."""
    blurred = case.meta["subcases"][name]["blur_applied"]
    sigma_px = float(case[f"in/{name}/sigma"]) if blurred else None
    return StrongDraw(recorded_jitter(case, name), sigma_px)


def images_of(case: Case, name: str) -> Tensor:
    """The images that the transform starts from, mixed by us where the case mixes."""
    if not case.meta["subcases"][name]["mix"]:
        return case.tensor(f"in/{name}/img")
    mask = case.tensor(f"in/{name}/mask").bool()
    return mix(mask, case.tensor(f"in/{name}/src"), case.tensor(f"in/{name}/trg"))


def test_mixing_precedes_the_transform(reference: Reference) -> None:
    case = reference("strong_transform")
    for name in case.meta["subcases"]:
        assert_close(images_of(case, name), case[f"out/{name}/mixed"], 0)


def test_the_whole_transform_is_the_official_one(reference: Reference) -> None:
    case = reference("strong_transform")
    for name in case.meta["subcases"]:
        result = augment(images_of(case, name), [recorded_draw(case, name)])
        assert_close(result, case[f"out/{name}/final"], NORMALISED_TOL)


def test_every_step_of_the_jitter_is_the_official_one(reference: Reference) -> None:
    case = reference("strong_transform")
    for name in case.meta["subcases"]:
        draw = recorded_jitter(case, name)
        if draw is None:
            continue
        images = denormalise(case.tensor(f"out/{name}/mixed"))
        assert_close(images, case[f"out/{name}/denorm"], UNIT_TOL)
        for step, index in enumerate(case[f"in/{name}/jitter_order"]):
            so_far = jitter_colors(images, replace(draw, order=draw.order[: step + 1]))
            assert_close(so_far, case[f"out/{name}/jitter_step{step}_op{index}"], UNIT_TOL)
        jittered = jitter_colors(images, draw)
        assert_close(jittered, case[f"out/{name}/jittered"], UNIT_TOL)
        assert_close(normalise(jittered), case[f"out/{name}/renormed"], NORMALISED_TOL)


def test_the_blur_alone_is_the_official_one(reference: Reference) -> None:
    case = reference("strong_transform")
    images = case.tensor("in/blur_only/img")
    for key in case.keys("out/blur_only/sigma"):
        sigma_px = float(key.removeprefix("out/blur_only/sigma"))
        assert_close(blur(images, sigma_px), case[key], NORMALISED_TOL)


def test_the_kernel_side_is_the_official_one(reference: Reference) -> None:
    case = reference("strong_transform")
    for side_px, kernel in case["out/kernel_size_table"]:
        assert blur_side(int(side_px)) == kernel
    for name, settings in case.meta["subcases"].items():
        if settings["blur_applied"]:
            sides = [blur_side(side) for side in images_of(case, name).shape[-2:]]
            assert sides == case[f"out/{name}/blur_kernel_size"].tolist()


def test_a_point_is_spread_into_the_official_kernel(reference: Reference) -> None:
    case = reference("strong_transform")
    for name, settings in case.meta["subcases"].items():
        if settings["blur_applied"]:
            kernel = case[f"out/{name}/blur_kernel2d"]
            height, width = images_of(case, name).shape[-2:]
            point = torch.zeros(1, 3, height, width)
            point[..., height // 2, width // 2] = 1
            spread = blur(point, float(case[f"in/{name}/sigma"]))[0, 0]
            top, left = (height - kernel.shape[0] + 1) // 2, (width - kernel.shape[1] + 1) // 2
            cut = spread[top : top + kernel.shape[0], left : left + kernel.shape[1]]
            assert_close(cut, kernel, 1e-6)


class Gates(np.random.Generator):
    """A generator whose first uniform numbers are given."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers = list(numbers)

    def random(self, *args: object, **kwargs: object) -> float:  # type: ignore[override]
        return self.numbers.pop(0)


def test_jitter_and_blur_happen_for_the_official_draws(reference: Reference) -> None:
    # Official: where the draw exceeds a threshold. Ours: where a draw is below the probability.
    case = reference("strong_transform")
    for name, settings in case.meta["subcases"].items():
        draws = draw_strong(
            Gates(1 - settings["color_jitter_draw"], 1 - settings["blur_draw"]),
            settings["B"],
            SelfTrainingConfig.model_construct(
                jitter_probability=1 - case.meta["color_jitter_p"],
                jitter_strength=case.meta["color_jitter_s"],
                blur_probability=0.5,
            ),
            per_image=settings["mix"],
        )
        for draw in draws:
            assert (draw.jitter is not None) == settings["jitter_applied"], name
            assert (draw.sigma_px is not None) == settings["blur_applied"], name


def test_factors_and_sigma_span_the_official_ranges(reference: Reference) -> None:
    case = reference("strong_transform")
    [draw] = draw_strong(
        np.random.default_rng(0),
        100_000,
        SelfTrainingConfig.model_construct(
            jitter_probability=1, jitter_strength=case.meta["color_jitter_s"], blur_probability=1
        ),
        per_image=False,
    )
    assert draw.jitter is not None
    for name, (low, high) in case.meta["observed_param_ranges"].items():
        factors = draw.jitter.factors[name.removesuffix("_factor")]
        assert_close([float(factors.min()), float(factors.max())], [low, high], 1e-4)
    assert case.meta["sigma_draw"] == "np.random.uniform({}, {})".format(*SIGMA_PX)
