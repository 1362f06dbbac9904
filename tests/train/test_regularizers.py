import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.student.hrda import logits_of
from stages.student.student import build_student
from stages.train.regularizers.aligned_fusion import AlignedFusion, StudentDrop
from stages.train.regularizers.cross_attention import CrossAttentionBranch
from stages.train.state import build_optimizer
from stages.train.step import train_step
from store.errors import ConfigError
from tests.train.example import GUIDED, train_config
from tests.train.test_loop import TWENTY
from tests.train.test_step import batch_of, gradients, models_for, moved, step, weights
from tests.train.world import World, assert_same

WIDTHS, HEADS = (16, 32, 80, 128), (1, 2, 5, 8)


def student_maps(batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2)]
    return [
        torch.randn(batch, width, *size, generator=generator)
        for width, size in zip(WIDTHS, sizes, strict=True)
    ]


def test_stages_without_a_level_pass_unchanged_and_have_no_weights() -> None:
    regularizer = CrossAttentionBranch(
        WIDTHS, {"stride8": 64}, HEADS, [None, "stride8", None, "stride8"]
    )
    student = student_maps()
    enhanced = regularizer(student, {"stride8": torch.randn(2, 64, 5, 7)})
    assert enhanced[0] is student[0]
    assert enhanced[2] is student[2]
    for stage in (1, 3):
        assert enhanced[stage].shape == student[stage].shape
        assert not torch.equal(enhanced[stage], student[stage])
    assert {name.split(".")[1] for name, _ in regularizer.named_parameters()} == {"1", "3"}


CONFIG = train_config(regularizer=GUIDED)
PLAIN = train_config(regularizer={"on": []})


@pytest.mark.parametrize("side", [16, 8, 4, 2])
def test_a_token_changes_the_student_where_it_lies_and_nowhere_else(side: int) -> None:
    laid = AlignedFusion(4, 6)
    teacher = torch.zeros(1, 4, 8, 8)
    without = laid(teacher, (side, side))
    teacher[:, :, 5, 2] = 1.0
    changed = (laid(teacher, (side, side)) - without).abs().sum(dim=(0, 1)) > 1e-7
    rows, columns = (torch.nonzero(changed.any(dim=other)).flatten() for other in (1, 0))
    scale = side / 8
    for found, token in ((rows, 5), (columns, 2)):
        middle = (float(found.min()) + float(found.max()) + 1) / 2
        assert abs(middle - (token + 0.5) * scale) <= 0.5 * max(1.0, scale)
        assert len(found) <= max(1, 2 * scale)


def test_dropped_samples_see_the_teacher_alone_at_every_stage() -> None:
    drop = StudentDrop(0.5).train()
    maps = [torch.ones(64, 3, 4, 4), torch.ones(64, 5, 2, 2)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fine, coarse = drop(maps)
    kept = fine[:, 0, 0, 0]
    assert set(kept.tolist()) == {0.0, 1.0}
    assert 16 < int(kept.sum()) < 48
    assert torch.equal(coarse, kept[:, None, None, None].expand_as(coarse))
    assert all(torch.equal(a, b) for a, b in zip(drop.eval()(maps), maps, strict=True))


def test_the_guide_sends_no_gradient_to_the_student() -> None:
    guided, plain = models_for(CONFIG), models_for(PLAIN)
    batch = batch_of()
    for models, config in ((guided, CONFIG), (plain, PLAIN)):
        torch.manual_seed(0)  # of dropout
        train_step(models, batch, None, config=config, iteration=0)  # the source alone
    assert_same(gradients(guided.student), gradients(plain.student))
    assert set(gradients(guided.regularizer)) == set(weights(guided.regularizer))
    norms = [m.student.head.state_dict() for m in (guided, plain)]
    assert_same(dict(norms[0]), dict(norms[1]))  # batch norms saw no enhanced pass


def test_the_averaged_guide_makes_the_labels_and_follows_the_guide() -> None:
    models = models_for(CONFIG)
    assert models.ema is not None
    assert models.ema_branch is not None
    with torch.no_grad():
        for parameter in models.ema_branch.parameters():
            parameter.add_(1.0)
    before = weights(models.ema_branch)
    batch = batch_of()
    result = step(CONFIG, models, batch)
    assert moved(models.ema_branch, before)  # at iteration 0 it becomes a copy
    assert_same(weights(models.ema_branch), weights(models.regularizer))
    with torch.no_grad():
        seen = models.ema.see(batch.target_image)
        logits = logits_of(models.ema_branch.logits(models.ema, seen, batch.target_features))
        others = {"stride8": batch.target_features["stride8"].flip(0)}
        elsewhere = logits_of(models.ema_branch.logits(models.ema, seen, others))
    enlarged = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
    assert result.pseudo is not None
    assert torch.equal(result.pseudo.label, enlarged.argmax(dim=1))
    assert not torch.equal(logits, elsewhere)


def test_its_head_learns_at_the_rate_of_heads() -> None:
    models = models_for(CONFIG)
    config = CONFIG.optimizer.model_copy(update={"head_lr_factor": 7.0})
    groups = build_optimizer(models.student, models.regularizer, config).param_groups
    assert models.regularizer is not None
    rates = {id(each): group["lr_factor"] for group in groups for each in group["params"]}
    for name, parameter in models.regularizer.named_parameters():
        assert rates[id(parameter)] == (7.0 if name.startswith("head.") else 1.0), name


def test_a_guided_run_resumes_bit_for_bit(world: World, tmp_path: Path) -> None:
    config = train_config(**TWENTY, regularizer=GUIDED, self_training={"start": 4})
    assert "ema_branch" in world.resumes(config, tmp_path, stop=13, at=10)["checkpoint"]


@pytest.mark.parametrize(
    ("regularizer", "said"),
    [
        ({"kind": "ssr", "student_drop": 0.5}, "student_drop"),
        ({**GUIDED, "on": ["source"]}, "learns from both"),
    ],
)
def test_what_does_not_go_together_is_refused(regularizer: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train_config(regularizer=regularizer)


@pytest.mark.parametrize("kind", ["ssr", "guided"])
def test_tokens_refine_what_is_read_and_begin_as_little(
    world: World, tmp_path: Path, kind: str
) -> None:
    keys = {**GUIDED, "kind": kind} if kind == "guided" else {}
    levels = ["stride8", "stride16", None, "stride8"]
    for name, more in (("plain", {}), ("refined", {"refine": {"tokens": 7, "rank": 2}})):
        changes: dict[str, Any] = {"regularizer": {**keys, "levels": levels, **more}}
        world.run(tmp_path / name, iterations=3, log_every=1, **changes)
    rows = [
        next(csv.DictReader((tmp_path / name / "health.csv").read_text().splitlines()))
        for name in ("plain", "refined")
    ]
    assert float(rows[1]["residual_0"]) == pytest.approx(float(rows[0]["residual_0"]), rel=0.02)
    assert float(rows[1]["rein_scale"]) == 0.001
    assert 0 < float(rows[1]["rein_delta"]) < 0.01
    assert float(rows[1]["rein_dropped"]) == pytest.approx(1 / 7, rel=0.2)
    saved = torch.load(tmp_path / "refined/checkpoint.pt", weights_only=True)
    assert saved["regularizer"]["refiner.scale"] != 0.001
    plain = torch.load(tmp_path / "plain/checkpoint.pt", weights_only=True)
    assert plain["regularizer"].keys() < saved["regularizer"].keys()


def test_levels_of_two_widths_have_no_common_tokens() -> None:
    config = train_config(regularizer={"refine": {"tokens": 7, "rank": 2}}).regularizer
    assert config.refine is not None
    student = build_student(train_config().student, num_classes=2, seed=0)
    channels = {"stride8": 4, "stride16": 6}
    with pytest.raises(ConfigError, match="cannot share its maps; read levels of one width"):
        config.build(student, channels).add_refiner(4, 2, channels)
