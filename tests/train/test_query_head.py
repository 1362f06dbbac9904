"""Mask2Former's head of a Rein student: its queries, its loss, and what is made of it."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Mask2FormerConfig

from stages.evaluate import predict
from stages.prepare.labels import IGNORE
from stages.student import query_head
from stages.student.query_head import QueryHead, Sets, logits_of, set_loss
from stages.student.student import Student, build_student
from stages.train.config import TrainConfig
from stages.train.graphs import passes_for
from stages.train.state import build_optimizer
from stages.train.step import run_passes
from stages.train.validate import Validation
from store.errors import ConfigError
from tests.train import test_rein_vfm as rein
from tests.train.world import World, silent

HEAD: dict[str, Any] = {"head": "mask2former", "head_channels": 32, "dropout": 0.0}
LABEL = torch.tensor([0, 1, 2, 2, 1, IGNORE]).repeat_interleave(8).repeat(2, 48, 1)  # (B, H, W)
SMALL = partial(Mask2FormerConfig, train_num_points=200, encoder_layers=1, decoder_layers=3)


@pytest.fixture
def vit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(query_head, "Mask2FormerConfig", SMALL)
    return rein.save_vit(tmp_path / "vit")


def config(vit: Path, **changes: Any) -> TrainConfig:  # noqa: ANN401
    student = HEAD | changes.pop("student", {})
    tokens = {"tokens": 12} | changes.pop("rein", {})
    return rein.config(vit, **{"student": student, "rein": tokens, "self_training": None} | changes)


def build(vit: Path, **rein_: Any) -> tuple[Student, QueryHead]:  # noqa: ANN401
    student = build_student(config(vit, rein=rein_).student, num_classes=11, seed=0)
    assert isinstance(student.head, QueryHead)
    return student, student.head


def saying(classes: list[int], places: list[int]) -> Sets:
    """Queries that are sure of a class of 3, or of none, and of where another one is."""
    masks = [20 * LABEL.eq(each).float() - 10 for each in places]
    return Sets(
        10 * F.one_hot(torch.tensor(classes), 4).float().repeat(2, 1, 1), torch.stack(masks, 1)
    )


def loss_of(said: Sets, label: Tensor = LABEL) -> float:
    torch.manual_seed(0)
    return float(set_loss(said, label, Mask2FormerConfig(num_labels=3)))


def test_the_loss_is_the_published_sum() -> None:
    classes, level = torch.tensor([[[2.0, 0, 1, 0], [0, 1, 0, 0.5]]]), torch.tensor(0.7)
    masks = torch.tensor([0.7, -3.0])[None, :, None, None].repeat(1, 1, 256, 256)
    label, points = torch.zeros(1, 256, 256, dtype=torch.long), 12544
    shares = classes[0].log_softmax(-1)
    of_classes = -(shares[0, 0] + 0.1 * shares[1, 3]) / 1.1  # matched, and no object
    inside = points * level.sigmoid()
    dice = 1 - (2 * inside + 1) / (inside + points + 1)
    expected = 2 * of_classes + 5 * F.softplus(-level) + 5 * dice
    assert loss_of(Sets(classes, masks), label) == pytest.approx(float(expected), rel=0.01)


def test_what_is_right_costs_least_in_any_order() -> None:
    least = loss_of(saying([0, 1, 2, 3], [0, 1, 2, 0]))
    assert loss_of(saying([2, 3, 0, 1], [2, 0, 0, 1])) == pytest.approx(least, abs=0.05)
    for classes, places in (([0, 2, 1, 3], [0, 1, 2, 0]), ([0, 1, 2, 2], [0, 1, 2, 2])):
        assert loss_of(saying(classes, places)) > least + 0.5
    assert loss_of(saying([0, 1, 2, 3], [0, 1, 1, 2])) > least + 5
    empty = torch.full_like(LABEL, IGNORE)
    assert loss_of(saying([3, 3], [0, 1]), empty) < 0.01 < loss_of(saying([0, 3], [0, 1]), empty)


def test_logits_are_logarithms_of_classes_times_masks() -> None:
    said = Sets(torch.randn(2, 5, 4), torch.randn(2, 5, 3, 2))
    expected = torch.zeros(2, 3, 3, 2)
    for query, k in torch.cartesian_prod(torch.arange(5), torch.arange(3)):
        share = said.classes[:, query].softmax(-1)[:, k, None, None]
        expected[:, k] += share * said.masks[:, query].sigmoid()
    torch.testing.assert_close(logits_of(said).exp(), expected)
    assert logits_of(Sets(1e4 * said.classes, -1e4 * said.masks.abs())).isfinite().all()


def maps() -> list[Tensor]:
    return [torch.randn(2, 16, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]


def test_tokens_learn_through_the_queries(vit: Path) -> None:
    features, label = maps(), torch.randint(0, 11, (2, 64, 96))
    student, head = build(vit)
    assert len(head.predict(features)) == 3
    torch.autograd.backward(torch.stack(head.losses(features, label)).sum())
    factors = [student.get_parameter(f"backbone.rein.factors.{number}") for number in (0, 1)]
    assert all(factor.grad is not None and factor.grad.any() for factor in factors)
    assert not [name for name in student.state_dict() if "queries_" in name]
    assert student.num_classes == 11


def test_norms_and_embeddings_of_the_head_do_not_decay(vit: Path) -> None:
    student, head = build(vit, tune="none")
    optimizer = build_optimizer(student, None, config(vit).optimizer)
    still = next(group for group in optimizer.param_groups if group["name"] == "head norms")
    assert still["weight_decay"] == 0
    assert {id(weight) for weight in still["params"]} == {
        id(weight)
        for name, weight in head.named_parameters()
        if "norm" in name or "level_embed" in name or name == "decoder.queries_embedder.weight"
    }


@pytest.mark.parametrize("tune", ["none", "lora"])
def test_queries_of_a_control_are_learned_in_the_place_of_linked_ones(vit: Path, tune: str) -> None:
    student, head = build(vit)
    _, own = build(vit, tune=tune)
    queries = head.link(student.get_submodule("backbone.rein"))
    weights = head.state_dict() | {
        "decoder.queries_embedder.weight": queries,
        "decoder.queries_features.weight": head.to_content(queries),
    }
    linked = ("link.", "to_content.")
    own.load_state_dict({n: w for n, w in weights.items() if not n.startswith(linked)})
    features = maps()
    assert own(features).shape == (2, 11, 16, 24)
    assert torch.equal(own(features), head(features))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_resumes_and_predicts(
    world: World, vit: Path, tmp_path: Path, precision: str
) -> None:
    asked = config(vit, iterations=4, precision=precision, checkpoint_every=2, validate_every=2)
    images = world.manifest.select(domain="source", split="val")
    validation = Validation(images, world.manifest, world.roots)
    world.resumes(asked, tmp_path, stop=2, at=2, validation=validation)
    row = next(csv.DictReader((tmp_path / "through/curves.csv").read_text().splitlines()))
    assert float(row["clean_auxiliary"]) == pytest.approx(2 * float(row["clean"]), rel=0.1)
    assert len((tmp_path / "through/validation.csv").read_text().splitlines()) == 3

    photos = str(next(world.folder.glob("drawn/**/*.png")).parent)
    common: dict[str, Any] = {"fit_px": "model", "window_px": 64, "batch": 1, "device": "cpu"}
    done = predict.run(
        model=tmp_path / "through", images=[photos], out=tmp_path / "p", progress=silent, **common
    )
    assert len(list((tmp_path / "p/labels").rglob("*.png"))) == len(done.names)


def test_a_query_for_each_class_and_scipy_are_required(
    world: World,
    vit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigError, match="10 queries cannot name 11 classes; raise it"):
        build(vit, tokens=10)
    monkeypatch.setattr(query_head, "is_scipy_available", lambda: False)
    with pytest.raises(ConfigError, match=r"scipy for its loss: pip install -e '.\[mask2former\]'"):
        world.train(config(vit), tmp_path / "run")
    assert passes_for(config(vit), torch.device("cuda"), 1) is run_passes
    assert "mask2former matches on the CPU" in caplog.text
