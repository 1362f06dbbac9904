"""SeMask, Rein and their tables against the numbers of the official code."""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config
from transformers.models.dinov2.modeling_dinov2 import Dinov2Layer

from stages.prepare.datasets import mapillary
from stages.prepare.datasets.mapillary import MAPILLARY_IDS, NAMES
from stages.prepare.labels import (
    CITYSCAPES_19,
    CITYSCAPES_IDS,
    IGNORE,
    StoredLabel,
    to_train_ids,
    train_id_table,
)
from stages.student import rein, rein_vfm, semask
from stages.student.heads import ConvNormAct
from stages.student.mit import BACKBONES, build_backbone, stage_features
from stages.train.adaptation.losses import segmentation_loss
from store.errors import ConfigError
from tests.official import pixel_accuracy
from tests.parity.cases import Case, Reference, assert_close
from tests.parity.checks import Check, assert_own, check_all, planted
from tests.parity.swin import SemanticBlock, norm, swin_stage

KEY_BIAS = "mlp_cls_k.bias"  # without a gradient: softmax is the same for shifted keys
Rules = Sequence[tuple[str, str]]
SEMANTIC = (
    ("norm1", "norm"),
    ("class_injection", "layer.attentions"),
    ("mlp_cls_q", "query"),
    ("mlp_cls_k", "key"),
    ("mlp_v", "value"),
    ("mlp_res", "project"),
)
REIN = (
    ("learnable_tokens_a", "rein.factors.0"),
    ("learnable_tokens_b", "rein.factors.1"),
    ("learnable_tokens", "rein.factors.0"),
    ("mlp_token2feat", "rein.to_feature"),
    ("mlp_delta_f", "rein.to_delta"),
    ("^scale", "rein.scale"),
    ("transform", "link.to_query"),
    ("merge", "link.merge"),
)
VIT = (
    (r"attn\.proj", "attention.o_proj"),
    (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"),
)


def test_every_case_has_a_check(seeds: Reference) -> None:
    cases = {path.stem for path in seeds.folder.glob("*.[nj]*")}
    assert cases == {*CHECKS, "id_tables", "mapillary_v12_to_19"} - {*CASE_OF}


def check_blocks(module: ModuleType, case: Case) -> None:
    for sub in case.meta["subcases"]:
        i = sub["id"]
        block: Any = SemanticBlock(
            module, sub["dim"], sub["n_cls"], window=sub["window"], depth=sub["num_sem_blocks"]
        ).eval()
        load(block, case.params(f"param/{sub['model']}/"), SEMANTIC)
        assert block.norm.eps == case.meta["layernorm_eps"]
        for part in (f"out/{i}", f"out/{i}/gamma0"):
            if part.endswith("gamma0"):
                for attention in block.layer.attentions:
                    nn.init.zeros_(attention.gamma)
            block.zero_grad()
            tokens = case.tensor(f"in/{i}/x").requires_grad_()
            class_map, seen = map(flat, block(unflat(tokens, sub["hw"])))
            total = (class_map * case.tensor(f"in/{i}/cot_map")).sum()
            torch.autograd.backward(total + (seen * case.tensor(f"in/{i}/cot_out")).sum())
            assert_close(class_map, case[f"{part}/class_map"], 1e-5)
            assert_close(seen, case[f"{part}/output"], 1e-5)
            assert_close(gradient_of(tokens), case[f"{part}/grad_input"], 1e-4)
            compare_gradients(
                block, case, f"{part}/grad/", SEMANTIC, partial(assert_close, tol=1e-4)
            )
        assert torch.equal(seen, block.norm(tokens))  # nothing but the norm is left with gamma 0
        for name, weight in block.named_parameters():
            if re.search("key|value|project", name):
                assert not weight.grad.any(), name


def check_decoder(module: ModuleType, case: Case) -> None:
    meta = case.meta
    assert (meta["cate_weight"], meta["ignore_index"]) == (module.AUXILIARY_WEIGHT, IGNORE)
    for sub in meta["subcases"]:
        i, corners = sub["id"], sub["align_corners"]
        label = case.tensor(f"in/{i}/label").squeeze(1)
        resize = partial(F.interpolate, mode="bilinear", align_corners=corners)

        def loss_at(
            logits: Tensor,
            label: Tensor,
            weight: Tensor | None,
            resize: Callable[..., Tensor] = resize,
        ) -> Tensor:
            return segmentation_loss(resize(logits, label.shape[-2:]), label, weight)

        maps = [case.tensor(f"in/{i}/class_map{j}").requires_grad_() for j in range(4)]
        total = module.sum_class_maps(maps, align_corners=corners)
        loss = module.auxiliary_loss(maps, label, loss=segmentation_loss)
        if corners:  # only Mask2Former's copies, which students of ours do not follow
            loss = module.AUXILIARY_WEIGHT * loss_at(total, label, None)
        assert_close(total, case[f"out/{i}/eval/class_map_sum"], 2e-6)
        assert_close(loss, case[f"out/{i}/eval/loss_cate"], 1e-6)
        unweighted = loss / meta["cate_weight"]
        assert_close(unweighted, case[f"out/{i}/aux_loss_unweighted"], 1e-6)
        valid = unweighted * label.numel() / (label != IGNORE).sum()
        assert_close(valid, case[f"out/{i}/aux_loss_valid_mean"], 1e-6)
        torch.autograd.backward(loss)
        for j, map_ in enumerate(maps):
            assert_own(map_.grad, case.tensor(f"out/{i}/eval/grad_loss_cate/class_map{j}"), 1e-4)
        for mode in ("train", "eval"):
            features = [case.tensor(f"in/{i}/feat{j}").requires_grad_() for j in range(4)]
            logits = semantic_fpn(case, sub, mode)(features)
            part = f"out/{i}/{mode}"
            assert_close(logits, case[f"{part}/seg_logits"], 2e-6)
            loss = loss_at(logits, label, None)
            torch.autograd.backward(loss)
            assert_close(loss, case[f"{part}/loss_ce"], 1e-6)
            accuracy = pixel_accuracy(resize(logits, label.shape[-2:]), label)
            assert float(accuracy) == pytest.approx(float(case[f"{part}/acc_seg"][0]), abs=0.01)
            for j, feature in enumerate(features):
                assert_own(feature.grad, case.tensor(f"{part}/grad_loss_ce/feat{j}"), 1e-4)


def semantic_fpn(case: Case, sub: Mapping[str, Any], mode: str) -> Callable[[list[Tensor]], Tensor]:
    """Build the official feature decoder, which we do not offer, from our convolutions."""
    channels, corners = sub["channels"], sub["align_corners"]
    resize = partial(F.interpolate, mode="bilinear", align_corners=corners)
    levels = nn.ModuleList()
    for j, width in enumerate(sub["dims"]):
        level: list[nn.Module] = []
        for step in range(max(1, j)):
            level.append(ConvNormAct(width if step == 0 else channels, channels, 3))
            if j > 0:
                level.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=corners))
        levels.append(nn.Sequential(*level))
    classifier = nn.Conv2d(channels, sub["n_cls"], 1)
    network = nn.ModuleDict({"scale_heads": levels, "conv_seg": classifier})
    official = case.params(f"param/{sub['id']}/")
    missing, unexpected = network.load_state_dict(official, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    network.train(mode == "train")

    def decode(features: list[Tensor]) -> Tensor:
        maps = [level(feature) for level, feature in zip(levels, features, strict=True)]
        logits: Tensor = classifier(sum(resize(each, maps[0].shape[2:]) for each in maps))
        return logits

    return decode


def check_stack(module: ModuleType, case: Case) -> None:
    eps = case.meta["layernorm_eps"]
    for sub in case.meta["subcases"]:
        i = sub["id"]
        official = case.params(f"param/{sub['model']}/")
        trunk = {n: t.requires_grad_() for n, t in official.items() if "semantic_layer" not in n}
        layers = nn.ModuleList()
        for stage, window in enumerate(sub["semantic_window"]):
            width = sub["embed_dim"] << stage
            block: Any = SemanticBlock(module, width, sub["n_cls"], window=window, depth=1)
            prefix = f"layers.{stage}.semantic_layer."
            own = {n.removeprefix(prefix): t for n, t in official.items() if n.startswith(prefix)}
            load(block.eval(), own, SEMANTIC)
            layers.append(block)
        images = case.tensor(f"in/{i}/img").requires_grad_()
        stages = [partial(swin_stage, trunk, sub, stage) for stage in range(4)]
        features, class_maps = module.semantic_features(stages, layers, images)
        total = images.new_zeros(())
        for j, (feature, class_map) in enumerate(zip(features, class_maps, strict=True)):
            normed = norm(feature.permute(0, 2, 3, 1), trunk, f"norm{j}", eps).permute(0, 3, 1, 2)
            assert_close(normed, case[f"out/{i}/feat{j}"], 1e-5)
            assert_close(class_map, case[f"out/{i}/class_map{j}"], 1e-5)
            total = total + (normed * case.tensor(f"in/{i}/cot_feat{j}")).sum()
            total = total + (class_map * case.tensor(f"in/{i}/cot_map{j}")).sum()
        torch.autograd.backward(total)
        assert_close(gradient_of(images), case[f"out/{i}/grad_img"], 1e-5)
        gradients = {name: weight.grad for name, weight in trunk.items()}
        for stage, block in enumerate(layers):
            for name in (n for n in official if n.startswith(f"layers.{stage}.semantic_layer.")):
                own_name = renamed(name.split("semantic_layer.")[1], SEMANTIC)
                gradients[name] = block.get_parameter(own_name).grad
        for name, norm_ in zip(
            sub["param_grad_names"], case[f"out/{i}/param_grad_norms"], strict=True
        ):
            if not name.endswith(KEY_BIAS):
                gradient = gradients[name]
                assert gradient is not None, name
                assert float(gradient.norm()) == pytest.approx(float(norm_), rel=2e-4), name


def check_dead_branch(module: ModuleType, case: Case) -> None:
    cfg = case.meta["cfg"]
    label, classifier = case.tensor("in/label"), case.tensor("in/classifier")
    for init in ("zero_init", "trunc_init"):
        block: Any = SemanticBlock(module, cfg["C"], cfg["K"], window=cfg["win"], depth=1).eval()
        load(block, case.params(f"param/{init}/"), SEMANTIC)
        for step in range(cfg["steps"]):
            part = f"out/{init}/step{step}"
            loss = semantic_step(block, case.tensor("in/x"), label, classifier, cfg["hw"])
            assert_close(loss, case[f"{part}/loss"], 1e-6)
            compare_gradients(block, case, f"{part}/grad/", SEMANTIC, partial(assert_own, tol=1e-4))
            for name in case.meta["dead_parameters"] if init == "zero_init" else ():
                assert not block.get_parameter(renamed(name, SEMANTIC)).grad.any(), name
            descend(block, cfg["lr"])
        for name, weight in case.params(f"out/{init}/final/").items():
            assert_close(block.get_parameter(renamed(name, SEMANTIC)), weight, 1e-6)


def check_wakes_up(module: ModuleType, case: Case) -> None:
    """Our own initial weights: gamma learns at once, all others from the second step on."""
    cfg = case.meta["cfg"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block: Any = SemanticBlock(module, cfg["C"], cfg["K"], window=cfg["win"], depth=1).eval()
    initial = copy.deepcopy(block.layer)
    arguments = (case.tensor("in/x"), case.tensor("in/label"), case.tensor("in/classifier"))
    semantic_step(block, *arguments, cfg["hw"])
    assert block.layer.attentions[0].gamma.grad.any()
    descend(block, cfg["lr"])
    semantic_step(block, *arguments, cfg["hw"])
    for name, weight in block.named_parameters():
        assert weight.grad.any() or name.endswith("key.bias"), name
    for name, weight in initial.named_parameters():
        if name.endswith("weight"):
            assert 0.01 < float(weight.detach().std()) < 0.03, name
        else:
            assert not weight.any(), name


def semantic_step(
    block: nn.Module, tokens: Tensor, label: Tensor, classifier: Tensor, hw: Sequence[int]
) -> Tensor:
    class_map, seen = map(flat, block(unflat(tokens, hw)))
    logits = (seen @ classifier.T).flatten(0, 1)
    loss = F.cross_entropy(logits, label.flatten())
    loss = loss + semask.AUXILIARY_WEIGHT * F.cross_entropy(
        class_map.flatten(0, 1), label.flatten()
    )
    block.zero_grad()
    torch.autograd.backward(loss)
    return loss


def test_more_classes_than_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="19 classes are more than the 16 channels of a stage"):
        semask.semantic_layers((16, 32), 19, window=8, attends=True)
    layers = semask.semantic_layers((16, 32), 16, window=8, attends=False)
    assert {name for name, _ in layers[0].named_parameters()} == {
        "attentions.0.query.weight",
        "attentions.0.query.bias",
    }
    map_ = torch.randn(1, 16, 5, 9)
    assert torch.equal(layers[0](map_)[1], map_)


def linked(tokens: nn.Module, link: nn.Module) -> nn.ModuleDict:
    """Name tokens and the link to a query-based head as `REIN` does."""
    return nn.ModuleDict({"rein": tokens, "link": link})


def after_class_token(tokens: nn.Module, features: Tensor, layer: int) -> Tensor:
    return torch.cat([features[:, :1], tokens(features[:, 1:], layer)], dim=1)


def check_rein_layers(module: ModuleType, case: Case) -> None:
    for sub in case.meta["subcases"]:
        i = sub["id"]
        tokens = module.LowRankTokens(
            sub["embed_dims"], sub["layers"], tokens=sub["tokens"], rank=sub["lora_dim"]
        )
        link = module.QueryLink(sub["embed_dims"], sub["query_dims"])
        network = linked(tokens, link)
        load(network, case.params(f"param/{i}/"), REIN)
        x = case.tensor(f"in/{i}/x").requires_grad_()
        found = {"query": link(tokens)}
        chain = x
        for layer in range(sub["layers"]):
            found[f"layer{layer}"] = after_class_token(tokens, x, layer)
            found[f"nocls_layer{layer}"] = tokens(x[:, 1:], layer)
            chain = after_class_token(tokens, chain, layer)
            as_map = unflat(x[:, 1:], (1, -1))
            refined = flat(tokens.refine_map(as_map, layer))
            torch.testing.assert_close(refined, found[f"nocls_layer{layer}"])
            shares = tokens.shares(x[:, 1:], layer)
            torch.testing.assert_close(shares.sum(-1), torch.ones(shares.shape[:2]))
        found["chain"] = chain
        for name, value in found.items():
            assert_close(value, case[f"out/{i}/{name}"], 2e-6)
        terms = [(v * case.tensor(f"in/{i}/cot_{name}")).sum() for name, v in found.items()]
        torch.autograd.backward(torch.stack(terms).sum())
        assert_close(gradient_of(x), case[f"out/{i}/grad_input"], 1e-5)
        compare_gradients(network, case, f"out/{i}/grad/", REIN, partial(assert_close, tol=1e-5))


def check_rein_init(module: ModuleType, case: Case) -> None:
    rows = case.meta["rows"]
    for row, bound, parameters in zip(
        rows, case["out64/token_bound"], case["out/parameters"], strict=True
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = module.LowRankTokens(
                row["embed_dims"],
                row["layers"],
                tokens=row["tokens"],
                rank=row["lora_dim"],
                patch_px=row["patch_size"],
            )
            width = row["query_dims"]
            link = module.QueryLink(row["embed_dims"], width) if width else nn.Identity()
        both = linked(network, link)
        ours = module.token_bound(row["embed_dims"], row["lora_dim"], row["patch_size"])
        assert ours == pytest.approx(float(bound), abs=1e-7)
        assert ours == pytest.approx(row["token_bound"], abs=1e-7)
        assert sum(each.numel() for each in both.parameters()) == parameters
        assert float(network.scale.detach()) == pytest.approx(row["scale"])
        factors = list(network.factors)
        assert len(factors) == len(row["token_std"])
        for factor in factors:
            within(factor, ours)
        for name, facts in row["linear"].items():
            linear_ = both.get_submodule(renamed(name, REIN))
            assert isinstance(linear_, nn.Linear)
            assert (linear_.in_features, linear_.out_features) == (
                facts["in_features"],
                facts["out_features"],
            )
            assert facts["bound"] == pytest.approx(1 / math.sqrt(linear_.in_features))
            within(linear_.weight, facts["bound"])
            assert float(linear_.bias.detach().abs().max()) <= facts["bound"]


def within(weight: Tensor, bound: float) -> None:
    values = weight.detach().double()
    assert 0.98 * bound < float(values.abs().max()) <= bound * (1 + 1e-6)
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


def check_rein_backbone(module: ModuleType, case: Case) -> None:
    patch = case.meta["patch"]
    for sub in case.meta["subcases"]:
        i, grid, depth = sub["id"], tuple(sub["grid"]), sub["depth"]
        official = case.params(f"param/{sub['model']}/")
        own = {n.removeprefix("reins."): t for n, t in official.items() if "reins." in n}
        assert sorted(sub["trainable"]) == sorted(f"reins.{name}" for name in own)
        tokens = rein.LowRankTokens(
            sub["embed_dim"], depth, tokens=sub["tokens"], rank=sub["lora_dim"]
        )
        link = rein.QueryLink(sub["embed_dim"], sub["query_dims"])
        network = linked(tokens, link)
        load(network, own, REIN)
        code = module.position_code(official["pos_embed"], grid)
        assert_close(code, case[f"out/{i}/pos_embed_used"], 1e-5)
        weight, bias = (official[f"patch_embed.proj.{leaf}"] for leaf in ("weight", "bias"))
        patches = flat(F.conv2d(case.tensor(f"in/{i}/img"), weight, bias, stride=patch))
        hidden = torch.cat([official["cls_token"].expand(len(patches), -1, -1), patches], 1) + code
        blocks = [
            vit_block(official, sub, block, case.meta["layernorm_eps"]) for block in range(depth)
        ]

        def refined(
            network: rein.LowRankTokens | None,
            blocks: list[nn.Module] = blocks,
            hidden: Tensor = hidden,
            sub: Mapping[str, Any] = sub,
        ) -> list[Tensor]:
            taps: list[Tensor] = module.refine_blocks(blocks, hidden, network, taps=sub["taps"])
            return taps

        taps = refined(tokens)
        for j, tap in enumerate(taps):
            assert_close(unflat(tap, grid), case[f"out/{i}/tap{j}"], 1e-5)
        total = (link(tokens) * case.tensor(f"in/{i}/cot_query")).sum()
        assert_close(link(tokens), case[f"out/{i}/query"], 1e-5)
        for j, feature in enumerate(module.pyramid(taps, grid)):
            assert_close(feature, case[f"out/{i}/feat{j}"], 1e-5)
            total = total + (feature * case.tensor(f"in/{i}/cot_feat{j}")).sum()
        for j, feature in enumerate(module.pyramid(refined(None), grid)):
            assert_close(feature, case[f"out/{i}/frozen_feat{j}"], 1e-5)
        torch.autograd.backward(total)
        assert all(weight.grad is None for block in blocks for weight in block.parameters())
        compare_gradients(
            network, case, f"out/{i}/grad/reins.", REIN, partial(assert_close, tol=2e-5)
        )


def vit_block(
    official: Mapping[str, Tensor], sub: Mapping[str, Any], number: int, eps: float
) -> nn.Module:
    """Build transformers' block of a DINOv2, frozen, from official weights."""
    prefix = f"blocks.{number}."
    weights = {n.removeprefix(prefix): t for n, t in official.items() if n.startswith(prefix)}
    for leaf in ("weight", "bias"):
        parts = weights.pop(f"attn.qkv.{leaf}").chunk(3)
        for part, name in zip(parts, "qkv", strict=True):
            weights[f"attention.{name}_proj.{leaf}"] = part
    block = Dinov2Layer(
        Dinov2Config(
            hidden_size=sub["embed_dim"],
            num_attention_heads=sub["heads"],
            layer_norm_eps=eps,
            attn_implementation="sdpa",
        )
    )
    block.load_state_dict({renamed(name, VIT): tensor for name, tensor in weights.items()})
    frozen: nn.Module = block.eval().requires_grad_(False)
    return frozen


def check_conversion(module: ModuleType, case: Case) -> None:
    for target, facts in case.meta["targets"].items():
        code = module.resize_position_code(case.tensor("in/pos_embed"), facts["grid"])
        assert_close(code, case[f"out/{target}/pos_embed"], 1e-6)
        side = case[f"out/{target}/patch_kernel"].shape[-1]
        kernel = module.resize_patch_kernel(case.tensor("in/patch_kernel"), side)
        assert_close(kernel, case[f"out/{target}/patch_kernel"], 1e-6)


def test_mapillarys_classes_by_their_names(seeds: Reference) -> None:
    check_names(mapillary, seeds)


def check_names(module: ModuleType, seeds: Reference) -> None:
    table = seeds.json("mapillary_v12_to_19")
    assert list(NAMES) == table["names"]
    extra = table["extra_names"]
    for each in (table, extra):
        assert [module.train_id_of(name) for name in each["names"]] == each["train_id"]
    assert [MAPILLARY_IDS.ids[number] for number in range(len(NAMES))] == table["train_id"]
    cityscapes = {k: stored for stored, k in CITYSCAPES_IDS.ids.items() if k != IGNORE}
    assert [cityscapes.get(k, IGNORE) for k in table["train_id"]] == table["cityscapes_label_id"]


def test_ids_of_the_datasets(seeds: Reference) -> None:
    tables = seeds.json("id_tables")
    assert dict(enumerate(CITYSCAPES_19.names)) == {
        int(k): name for k, name in tables["train_ids"].items()
    }
    assert tables["ignore"] == IGNORE
    lookup = np.array(tables["gta"]["label_id_to_train_id_lut"], np.uint8)
    known = np.array([[stored for stored in CITYSCAPES_IDS.ids if 0 <= stored < 256]], np.uint8)
    assert np.array_equal(to_train_ids(StoredLabel(known), CITYSCAPES_IDS), lookup[known])
    for name in ("gta", "cityscapes"):
        official = {int(stored): k for stored, k in tables[name]["mapped"].items()}
        assert {s: k for s, k in CITYSCAPES_IDS.ids.items() if k != IGNORE} == official
    for name in ("bdd100k", "acdc"):
        official = {int(stored): k for stored, k in tables[name]["mapped"].items()}
        assert train_id_table(CITYSCAPES_19).ids == official


CHECKS: dict[str, tuple[ModuleType, Check]] = {
    "semask_block_windowed": (semask, check_blocks),
    "semask_block_global": (semask, check_blocks),
    "semask_decoder": (semask, check_decoder),
    "semask_stage_stack": (semask, check_stack),
    "semask_dead_branch": (semask, check_dead_branch),
    "semask_wakes_up": (semask, check_wakes_up),
    "rein_layers": (rein, check_rein_layers),
    "rein_init": (rein, check_rein_init),
    "rein_backbone": (rein_vfm, check_rein_backbone),
    "rein_patch_pos_conversion": (rein_vfm, check_conversion),
}
"""Case -> our module and what must hold of it; a wrong copy of the module must fail."""
CASE_OF = {"semask_wakes_up": "semask_dead_branch"}


@pytest.mark.parametrize("name", CHECKS)
def test_our_numbers_are_the_official_ones(seeds: Reference, name: str) -> None:
    module, check = CHECKS[name]
    case = seeds(CASE_OF.get(name, name))
    check_all(check, module, case) if name not in CASE_OF else check(module, case)


SIMILARITY = "self.tokens(layer).T * scale"
UNREAD = "self.shares(features, layer)[..., 1:] @ values"
WRONG: list[tuple[str, dict[str, tuple[str, str]]]] = [
    ("semask_block_windowed", {
        "scaled scores": ("value, scale=1.0)", "value)"),
        "padding that is no key": (
            "value, scale=1.0)", "value, scale=1.0, attn_mask=tokens.any(-1)[:, None])"
        ),
        "padding that is not zero": (
            "0, -height % window[0]))", "0, -height % window[0]), value=0.1)"
        ),
        "the first map of two": (
            "class_map, tokens = attention(tokens)",
            "class_map, tokens = (attention(tokens)[0] if class_map is tokens else class_map, "
            "attention(tokens)[1])",
        ),
        "shifted windows": (
            "filled = F.pad(map_,", "filled = F.pad(map_.roll((1, 1), (2, 3)),"
        ),
    }),
    ("semask_block_global", {
        "no residual": ("return query, tokens + self", "return query, self"),
        "swapped queries and keys": ("attention(query, key,", "attention(key, query,"),
        "the key as class map": ("return query, tokens + self", "return key, tokens + self"),
        "no gamma": ("self.gamma * self.drop", "self.drop"),
    }),
    ("semask_decoder", {
        "one direct resize": ("range(doublings)", "range(0)"),
        "the mean over valid pixels": (
            "class_maps), label, weight)",
            "class_maps), label, weight) * label.numel() / (label != 255).sum()",
        ),
        "no weight": ("return factor * loss", "return loss"),
        "corners that are not aligned": (
            "class_maps[0].shape[2:], mode=\"bilinear\", align_corners=align_corners",
            "class_maps[0].shape[2:], mode=\"bilinear\"",
        ),
    }),
    ("semask_stage_stack", {
        "stages that do not see the attention": (
            "class_map, images = layer(stage(images))\n        features.append(images)",
            "images = stage(images); class_map, seen = layer(images); features.append(seen)",
        ),
    }),
    ("semask_wakes_up", {
        "a projection that starts at zero": (
            "self.apply(_initialise)",
            "self.apply(_initialise); attends and nn.init.zeros_(self.project.weight)",
        ),
        "PyTorch's initial weights": ("self.apply(_initialise)", "pass"),
    }),
    ("rein_layers", {
        "a token 0 that is read": (
            UNREAD, "self.shares(features, layer) @ self.to_feature(self.tokens(layer))"
        ),
        "a softmax without token 0": (
            UNREAD, "self.shares(features, layer)[..., 1:].log().softmax(-1) @ values"
        ),
        "no features in the delta": ("self.to_delta(read + features)", "self.to_delta(read)"),
        "unscaled similarity": (SIMILARITY, "self.tokens(layer).T"),
        "queries of kinds one after the other": (
            "torch.stack(kinds, dim=-1).flatten(1)", "torch.cat(kinds, dim=1)"
        ),
        "the first layer for the last": ("dim=0), each[-1]]", "dim=0), each[0]]"),
    }),
    ("rein_init", {
        "a bound without the root": ("math.sqrt(channels * rank)", "channels * rank"),
        "a scale that collapses": ("INITIAL_SCALE: Final = 0.001", "INITIAL_SCALE: Final = 0.01"),
    }),
    ("rein_backbone", {
        "blocks that do not see the tokens": (
            "            hidden = torch.cat([hidden[:, :prefix], refined], dim=1)\n"
            "        if number in taps:\n            after[number] = hidden",
            "            after[number] = torch.cat([hidden[:, :prefix], refined], dim=1)\n"
            "        else:\n            after[number] = hidden",
        ),
        "a refined class token": (
            "rein(hidden[:, prefix:], number)\n"
            "            hidden = torch.cat([hidden[:, :prefix], refined], dim=1)",
            "hidden\n            hidden = rein(hidden, number)",
        ),
        "a pyramid resized to the size": (
            "scale_factor=factor,", "size=[int(side * factor) for side in grid],"
        ),
        "a position code resized to the size": ("scale_factor=factors)", "size=grid)"),
        "a position code kept as the number fits": (
            "if grid == (side, side):", "if grid[0] * grid[1] == side**2:"
        ),
    }),
    ("rein_patch_pos_conversion", {
        "antialiasing": (
            'scale_factor, mode="bicubic", align_corners=False)',
            'scale_factor, mode="bicubic", align_corners=False, antialias=True)',
        ),
        "a rescaled kernel": ("return F.interpolate(kernel,", "return 0.9 * F.interpolate(kernel,"),
    }),
]  # fmt: skip
"""Check, and for each error the right and the wrong piece of our module."""


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        pytest.param(name, *each, id=error)
        for name, errors in WRONG
        for error, each in errors.items()
    ],
)
def test_a_planted_error_is_found(shared: Path, check: str, right: str, wrong: str) -> None:
    module, run = CHECKS[check]
    wrong_module = planted(module, right, wrong)
    with pytest.raises(AssertionError):
        run(wrong_module, Reference(shared / "reference-seeds")(CASE_OF.get(check, check)))


@pytest.mark.parametrize(
    ("right", "wrong"), [('"[ -]"', '"-"'), ("|lanemarking", ""), ('("rider"', '("person"')]
)
def test_a_planted_error_in_the_names_is_found(shared: Path, right: str, wrong: str) -> None:
    with pytest.raises(AssertionError):
        check_names(planted(mapillary, right, wrong), Reference(shared / "reference-seeds"))


def test_with_gamma_0_a_student_is_a_plain_mit() -> None:
    mit = BACKBONES["mit_tiny"]
    backbone = build_backbone(mit, drop_path=0.0, norm_eps=1e-6)
    layers = semask.semantic_layers(mit.widths, 11, window=8, attends=True)
    images = torch.randn(1, 3, 64, 96)
    features, class_maps = semask.semantic_features(backbone.stages, layers, images)
    plain = stage_features(backbone.stages, images)
    assert all(torch.equal(one, other) for one, other in zip(features, plain, strict=True))
    assert [map_.shape[1:] for map_ in class_maps] == [(11, *map_.shape[2:]) for map_ in plain]
    nn.init.ones_(layers[0].get_parameter("attentions.0.gamma"))
    changed, _ = semask.semantic_features(backbone.stages, layers, images)
    assert not torch.equal(changed[3], plain[3])


def test_with_scale_0_rein_is_the_identity() -> None:
    network = rein.LowRankTokens(16, 2)
    nn.init.zeros_(network.scale)
    map_ = torch.randn(1, 16, 4, 5)
    assert torch.equal(network.refine_map(map_, 1), map_)


def load(network: nn.Module, official: Mapping[str, Tensor], rules: Rules) -> None:
    network.load_state_dict({renamed(name, rules): tensor for name, tensor in official.items()})


def renamed(official: str, rules: Rules) -> str:
    for theirs, ours in rules:
        official = re.sub(theirs, ours, official)
    return official


def compare_gradients(
    network: nn.Module,
    case: Case,
    prefix: str,
    rules: Rules,
    close: Callable[[Any, Any], None],
) -> None:
    expected = case.params(prefix)
    assert expected
    for name, gradient in expected.items():
        ours = network.get_parameter(renamed(name, rules)).grad
        if not name.endswith(KEY_BIAS) or close.func is assert_close:  # type: ignore[attr-defined]
            close(torch.zeros_like(gradient) if ours is None else ours, gradient)


@torch.no_grad()
def descend(network: nn.Module, lr: float) -> None:
    for weight in network.parameters():
        weight.sub_(gradient_of(weight), alpha=lr)


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def unflat(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], *grid)


def flat(map_: Tensor) -> Tensor:
    return map_.flatten(2).transpose(1, 2)
