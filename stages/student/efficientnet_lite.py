"""EfficientNet-Lite as a student's backbone: its stages behind the pixels that it was trained on.

Batch norms are trained as those of DAFormer's ResNets and of the heads here. The student's use the
statistics of each batch that it sees, source and mixed images apart; what they keep for inference
averages over both. Those of the EMA model use the target batch's: its parameters follow the
student's, its averages are of the target and never copied. Of feature distance's reference they
stay ImageNet's. `train.sync_batch_norm` joins the batches of several GPUs.
"""

from dataclasses import dataclass
from typing import Final

from torch import nn

from stages.efficientnet_lite import CHANNELS, MEAN, STD, Size, drawn, pretrained
from stages.renormalise import Renormalise
from stages.student.config import IMAGENET

SIZES: Final[dict[str, Size]] = {
    "efficientnet_lite0": "lite0",
    "efficientnet_lite1": "lite1",
    "efficientnet_lite2": "lite2",
}
"""By the name of the backbone."""

_HEADS: Final = (1, 2, 4, 8)  # divisors of the channels, for cross-attention to a teacher


@dataclass(frozen=True, slots=True)
class Widths:
    """Channels and attention heads of the four stages, under transformers' names."""

    hidden_sizes: tuple[int, ...]
    num_attention_heads: tuple[int, ...] = _HEADS


class EfficientNetLiteBackbone(nn.Module):
    """Four stages, each of which maps what the one before it returned; the first maps images.

    Args:
        size: Which one.
        weights: `imagenet` or `random`.
        seed: Of random weights.

    Raises:
        CheckpointError: If the package with ImageNet's weights is missing, or its file damaged.
    """

    def __init__(self, size: Size, *, weights: str, seed: int) -> None:
        super().__init__()
        network = drawn(size, seed)
        if weights == IMAGENET:
            network.load_state_dict(pretrained(size).state_dict())
        first, *rest = network.stages()
        images = Renormalise((MEAN,) * 3, (STD,) * 3)
        self.stages = nn.ModuleList(
            nn.Sequential(*modules) for modules in ([images, *first], *rest)
        )
        self.config = Widths(CHANNELS[size])
