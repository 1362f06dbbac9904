import csv
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.train import monitor, step
from stages.train.monitor import FiniteCheck
from stages.train.regularizers.branch import observed
from stages.train.regularizers.cross_attention import CrossAttention, CrossAttentionBranch
from store.errors import TrainingError
from tests.train.world import World, results

LEVELS = ("stride8", None, "stride8", "stride16")


def example(batch: int = 2) -> tuple[CrossAttentionBranch, list[Tensor], dict[str, Tensor]]:
    """A regulariser of three stages, student maps and teacher features."""
    torch.manual_seed(0)
    maps = [torch.randn(batch, c, side, side) for c, side in ((4, 16), (4, 8), (8, 4), (8, 2))]
    teacher = {"stride8": torch.randn(batch, 6, 8, 8), "stride16": torch.randn(batch, 6, 4, 4)}
    return (
        CrossAttentionBranch((4, 4, 8, 8), {"stride8": 6, "stride16": 6}, (1, 2, 2, 4), LEVELS),
        maps,
        teacher,
    )


def seen_of(
    regularizer: CrossAttentionBranch, maps: list[Tensor], teacher: dict[str, Tensor]
) -> dict[str, float]:
    with observed(regularizer) as seen:
        regularizer(maps, teacher)
    return {name: float(torch.stack(values).mean()) for name, values in seen.items()}


def fusion(regularizer: CrossAttentionBranch, stage: int) -> CrossAttention:
    module = regularizer.fusion.get_submodule(str(stage))
    assert isinstance(module, CrossAttention)
    return module


def test_entropy_is_that_of_the_softmax_over_the_teachers_tokens() -> None:
    regularizer, maps, teacher = example()
    attention = fusion(regularizer, 3)
    tokens = regularizer.embed["3"](teacher["stride16"].flatten(2).mT)
    query = attention.q(maps[3].flatten(2).mT).unflatten(2, (4, 2))  # (B, N, heads, 2)
    key = attention.kv(tokens)[..., :8].unflatten(2, (4, 2))
    with torch.no_grad():
        scores = torch.einsum("bnhc,bmhc->bhnm", query, key) / math.sqrt(2)
    share = scores.double().exp() / scores.double().exp().sum(dim=-1, keepdim=True)
    expected = -(share * share.log()).sum(dim=-1).mean() / math.log(16)
    assert seen_of(regularizer, maps, teacher)["entropy_3"] == pytest.approx(float(expected))


def test_watching_changes_no_weight(world: World, tmp_path: Path) -> None:
    for every in (1, 4):
        world.run(tmp_path / str(every), iterations=4, log_every=every)
    assert health(tmp_path / "1")[-1] == health(tmp_path / "4")[-1]
    assert len(health(tmp_path / "1")) == 4
    weights = [results(tmp_path / each)["student/model.safetensors"] for each in ("1", "4")]
    assert weights[0] == weights[1]


def test_a_class_that_vanishes_from_the_pseudo_labels_is_an_alarm(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names, seen = world.manifest.classes.names, list[int]()

    def label(logits: Tensor, size_px: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Class 2 on a quarter until it is taken away; class 3 on too little; 1 comes back."""
        seen.append(len(seen))
        labels = torch.zeros(len(logits), *size_px, dtype=torch.int64)
        if len(seen) <= 4:
            labels[:, :32, :32], labels[0, 40, 40] = 2, 3
        if len(seen) not in (5, 6):
            labels[:, 48:] = 1
        return torch.full(labels.shape, 0.5), labels

    monkeypatch.setattr(step, "most_probable", label)
    monkeypatch.setattr(monitor, "BLOCK", 2)
    shown = []
    world.run(
        tmp_path, lambda *progress: shown.append(progress[2]), iterations=8, log_every=2, workers=0
    )
    lost = [{k: float(v) for k, v in row.items() if "lost" in k and v} for row in health(tmp_path)]
    assert lost == [{}, {}, {"lost_1": 0, "lost_2": 0}, {"lost_2": 0}]
    assert shown[-1].startswith(f"LOST {names[2]}  ")
    assert [record.message.partition(" vanishes")[0] for record in caplog.records] == [
        f"step 6: {names[1]}",
        f"step 6: {names[2]}",
    ]


def health(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "health.csv").read_text().splitlines()))


CHECKPOINT = Path("checkpoint.pt")


def test_a_gradient_that_is_not_finite_stops_as_a_loss_does() -> None:
    watch = FiniteCheck(torch.device("cpu"))
    fine, broken = torch.ones(3), torch.tensor([1.0, math.inf])
    watch.add({"clean": torch.tensor(1.0)}, 0, [fine])
    assert float(watch.failed) == 0
    watch.add({"clean": torch.tensor(2.0)}, 1, [fine, broken])
    watch.add({"clean": torch.tensor(3.0)}, 2, [fine])
    assert float(watch.failed) == 1
    with pytest.raises(TrainingError, match=r"^iteration 1: a gradient is not finite \(clean 2\);"):
        watch.require_finite(CHECKPOINT)
