"""The ONNX twin of a student: the same logits without PyTorch.

Legend: B batch, K classes, H W pixels.
"""

import importlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from stages.prepare.geometry import Size
from store.errors import CheckpointError, ConfigError

TOLERANCE: Final = 1e-4
"""Largest difference of logits that makes a twin; labels may differ only below it."""

SIZES: Final[tuple[Size, ...]] = ((64, 64), (96, 160), (160, 128), (75, 110))
"""Inputs on which twins are compared; the last is not a multiple of 32."""

_TRACED: Final[Size] = (96, 160)  # two unequal sides, so that neither is taken for the other
_PACKAGES: Final = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near onnxruntime's logits are to PyTorch's on random images.

    Attributes:
        largest_difference: Of any logit.
        sizes_px: Of the images.
    """

    largest_difference: float
    sizes_px: tuple[Size, ...]


def require_packages() -> None:
    """Raise ConfigError unless everything that a twin needs is installed."""
    for package in _PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"--onnx needs the package {package}; pip install -e '.[onnx]'"
            ) from error


def export_onnx(network: nn.Module, classes: Sequence[str]) -> bytes:
    """Translate a student; batch, height and width stay free.

    Args:
        network: In eval mode on the CPU; (B, 3, H, W) to logits (B, K, H/4, W/4).
        classes: Names, kept in the file's metadata as a JSON list under `classes`.

    Returns:
        An ONNX file with input `pixel_values` and output `logits`, both float32.
    """
    import onnx

    assert not network.training, "call eval() first: batch statistics are of training"
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 3, *_TRACED),),
            dynamo=True,  # the other exporter is deprecated
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
            verbose=False,
        )
    assert program is not None, "without a file name the exporter returns its program"
    model = program.model_proto
    onnx.helper.set_model_props(model, {"classes": json.dumps(list(classes))})
    data: bytes = model.SerializeToString()
    return data


def compare_twins(
    network: nn.Module, model: bytes, *, sizes_px: Sequence[Size] = SIZES
) -> Agreement:
    """Run both on random images.

    Args:
        network: As in `export_onnx`.
        model: As `export_onnx` returned it.
        sizes_px: Heights and widths to try, in batches of one and two.

    Raises:
        CheckpointError: A logit differs by more than `TOLERANCE`, or a label differs although its
            logit leads by more than that.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    largest = 0.0
    for index, size in enumerate(sizes_px):
        images = rng.standard_normal((1 + index % 2, 3, *size)).astype(np.float32)
        (theirs,) = session.run(["logits"], {"pixel_values": images})
        with torch.inference_mode():
            ours = network(torch.from_numpy(images)).numpy()  # (B, K, H/4, W/4)
        largest = max(largest, float(np.abs(theirs - ours).max()))
        first, second = np.sort(ours, axis=1)[:, :-3:-1].swapaxes(0, 1)
        clear = first - second > TOLERANCE
        if largest > TOLERANCE or (theirs.argmax(1) != ours.argmax(1))[clear].any():
            raise CheckpointError(
                f"the ONNX twin differs from the student by {largest:.3g} at {size[0]}x{size[1]}, "
                f"allowed is {TOLERANCE:g}; nothing was written, try other versions of torch and "
                "onnxruntime"
            )
    return Agreement(largest, tuple(sizes_px))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of itself: absent torchvision, deprecations inside torch."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)
