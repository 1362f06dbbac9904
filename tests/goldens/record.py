"""Record what a smallest run leaves, and what twenty steps of each arm compute.

    python -m tests.goldens.record

writes `goldens.json`, to which `test_goldens.py` compares. Record anew only with a change that
means to compute something else, and say in its commit what moved and why.

Everything goes through the command line, so that modules may move. Hashed are values, and the bytes
of a store's shards; left out are times, versions, paths, fingerprints and other provenance.
"""

import csv
import hashlib
import json
import platform
import tempfile
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import safetensors.torch
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import SegformerConfig, SegformerModel
from transformers.utils import logging as transformers_logging

from examples.drawn import TEACHER
from tests.pipeline.workplace import demand

GOLDENS: Final = Path(__file__).parent / "goldens.json"
ARMS: Final = ("source-only", "daformer", "ssr", "ssr-mic", "guided")
STEPS: Final = 20

_KEYS: Final = {
    **{f"prepare.{domain}.height_px": 64 for domain in ("source", "target")},
    **{f"prepare.{domain}.width_px": 128 for domain in ("source", "target")},
    **{f"prepare.{domain}.train": 6 for domain in ("source", "target")},
    **{f"prepare.{domain}.val": 2 for domain in ("source", "target")},
    "prepare.target.strength": 1.0,
    "prepare.pad_to_px": 64,
    "store.shard_images": 4,
    "embed.device": "cpu",
    "embed.teacher.weights": TEACHER,
    "embed.threads": 1,
    "train.init": "null",
    "train.iterations": 4,
    "train.batch_size": 2,
    "train.crop_px": 64,
    "train.self_training.start": 2,
    "train.self_training.threshold": 0.1,  # of eleven classes: new students label the target
    "train.rare_class_sampling.min_pixels": 0,
    "train.device": "cpu",
    "train.threads": 1,
    "train.log_every": 1,
    "train.validate_every": 2,
    "evaluate.pictures": 2,
    "evaluate.device": "cpu",
}
_OF_ARMS: Final = {
    "train.iterations": STEPS,
    "train.student.head": "daformer",
    "train.student.head_channels": 16,
    "train.student.drop_path": 0.1,
    "train.student.weights": "./pretrained",
    "train.optimizer.warmup_iterations": 5,
    "train.validate_every": 0,
}
_FEATURE_DISTANCE: Final = "{weight: 0.01, classes: [road, building, sky], min_share: 0.3}"


def machine() -> dict[str, str]:
    """Name what decides about the last bits; equal goldens are promised only where it is equal."""
    return {
        "torch": torch.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def record() -> dict[str, Any]:
    """Run everything on one thread in a temporary folder.

    Returns:
        `machine`; `run`, name -> hash of what the smallest run leaves; `arms`, arm -> its `losses`,
        column -> its values, one a step, and its `weights`, network -> hash.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            run = _smallest_run()
            _save_backbone(Path("pretrained"))
            return {"machine": machine(), "run": run, "arms": {arm: _arm(arm) for arm in ARMS}}
    finally:
        torch.set_num_threads(threads)


def _smallest_run() -> dict[str, str]:
    demand("init", "--preset", "drawn")
    for command in ("prepare", "embed", "train", "evaluate"):
        demand(command, *_set(_KEYS))
    demand("export", "runs", "--out", "exported")
    # of drawn images, wherever they lie: the validation split of the target
    [photos] = {path.parent for path in Path("data").rglob("dusk*/val/images/*.png")}
    demand("predict", "runs", str(photos), "--out", "predicted", "--device", "cpu")
    return (
        _images(Path("data"), "drawn")
        | _manifest(Path("data/manifest.parquet"))
        | _stores(Path("data/features"))
        | _results(Path("runs"))
        | _exported(Path("exported"))
        | _images(Path("predicted"), "predicted")
    )


def _arm(arm: str) -> dict[str, Any]:
    out, params = Path("arms") / arm, f"{arm}.yaml"
    demand("init", "--preset", "drawn", "--arm", arm, "--params", params)
    keys = dict(_KEYS | _OF_ARMS)
    if arm == "source-only":
        keys = {key: value for key, value in keys.items() if "self_training" not in key}
    else:
        keys["train.feature_distance"] = _FEATURE_DISTANCE
    demand("train", "--params", params, "--out", str(out), *_set(keys))
    rows = list(csv.DictReader((out / "curves.csv").read_text().splitlines()))
    losses = {
        name: " ".join(row[name] for row in rows if row[name])
        for name in rows[0]
        if name != "iteration" and any(row[name] for row in rows)
    }
    return {"losses": losses, "weights": _networks(out / "checkpoint.pt")}


def _images(folder: Path, name: str) -> dict[str, str]:
    """One hash of the pixels for each folder of PNG files."""
    folders = sorted({path.parent for path in folder.rglob("*.png")})
    return {
        f"{name}/{place.relative_to(folder)}".removesuffix("/."): _digest(
            [path.name.encode() + _values(_pixels(path)) for path in sorted(place.glob("*.png"))]
        )
        for place in folders
    }


def _manifest(path: Path) -> dict[str, str]:
    table = pq.read_table(path)
    columns = {f"manifest/{name}": _json(table[name].to_pylist()) for name in table.column_names}
    metadata = json.loads(table.schema.metadata[b"ssr.manifest"])
    return columns | {f"manifest/metadata {key}": _json(metadata[key]) for key in metadata}


def _stores(folder: Path) -> dict[str, str]:
    hashes = {}
    for store in sorted(folder.glob("*/*.zarr")):
        for path in sorted(store.glob("*/zarr.json")):
            if json.loads(path.read_bytes())["node_type"] != "array":
                continue
            name = f"features/{store.parent.name}/{path.parent.name}"
            array = zarr.open_array(path.parent, mode="r")
            hashes[f"{name} values"] = _digest([_values(np.asarray(array[...]))])
            for shard in sorted(path.parent.glob("c.*")):
                hashes[f"{name} file {shard.name}"] = _digest([shard.read_bytes()])
    return hashes


def _results(folder: Path) -> dict[str, str]:
    metrics = json.loads((folder / "metrics.json").read_bytes())
    tables = ("curves", "health", "validation", "per_class", "confusion")
    return {
        **{f"metrics/{key}": _json(metrics[key]) for key in ("miou", "accuracy", "iou", "images")},
        **{f"{name}.csv": _digest([(folder / f"{name}.csv").read_bytes()]) for name in tables},
        **_images(folder / "pictures", "pictures"),
        "confusion.png": _digest([_values(_pixels(folder / "confusion.png"))]),
        **{f"weights/{name}": value for name, value in _networks(folder / "checkpoint.pt").items()},
        **{f"saved/{name}": _saved(folder / name) for name in ("student", "ema", "best")},
    }


def _exported(folder: Path) -> dict[str, str]:
    names = ("classes.json", "preprocessor_config.json")
    return {
        "exported/weights": _saved(folder),
        **{f"exported/{name}": _json(json.loads((folder / name).read_bytes())) for name in names},
    }


def _saved(folder: Path) -> str:
    return _tensors(safetensors.torch.load_file(folder / "model.safetensors"))


def _networks(checkpoint: Path) -> dict[str, str]:
    """Hash the tensors of each part of a checkpoint, whatever their names."""
    parts = torch.load(checkpoint, weights_only=True)
    return {name: _tensors(part) for name, part in parts.items() if list(_leaves(part))}


def _tensors(tree: object) -> str:
    """Hash a set of tensors; neither names nor order count."""
    return _digest(sorted(hashlib.sha256(_values(leaf.numpy())).digest() for leaf in _leaves(tree)))


def _leaves(tree: object) -> Iterable[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(branch)


def _save_backbone(folder: Path) -> None:
    """Write a mit_tiny as transformers does: what stands for ImageNet's weights."""
    config = SegformerConfig(
        hidden_sizes=[16, 32, 80, 128], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 5, 8]
    )
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        SegformerModel(config).save_pretrained(folder)


def _set(keys: dict[str, Any]) -> list[str]:
    return [word for key, value in keys.items() for word in ("-S", f"{key}={value}")]


def _pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def _values(array: NDArray[Any]) -> bytes:
    if array.dtype.kind not in "biuf":  # text
        return json.dumps(array.tolist()).encode()
    return f"{array.dtype} {array.shape}\n".encode() + np.ascontiguousarray(array).tobytes()


def _json(value: object) -> str:
    return _digest([json.dumps(value, sort_keys=True).encode()])


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    GOLDENS.write_text(json.dumps(record(), indent=1) + "\n")
