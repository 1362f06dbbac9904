"""Decode heads: DAFormer's, and SegFormer's own.

# B batch, C_i channels of stage i, E embedding channels, K classes
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

DILATIONS = (1, 6, 12, 18)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU; keeps the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, 1, padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)


class SeparableConvNormAct(nn.Sequential):
    """Dilated depthwise 3x3 convolution, then a pointwise one, each with norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(inputs, inputs, 3, dilation=dilation, groups=inputs)
        self.pointwise = ConvNormAct(inputs, outputs, 1)


class DAFormerHead(nn.Module):
    """DAFormer's context-aware head with separable ASPP (arXiv 2111.14887, section 3.2).

    Every map (finest first) is projected to `embed_channels`; each dilation is an ASPP branch of
    `channels`, 1 is a plain 1x1 convolution. Dropout is of whole channels of the bottleneck.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        embed_channels: int,
        channels: int,
        num_classes: int,
        *,
        dropout: float,
        dilations: Sequence[int] = DILATIONS,
    ) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(width, embed_channels) for width in in_channels)
        joined = embed_channels * len(in_channels)
        self.aspp = nn.ModuleList(
            ConvNormAct(joined, channels, 1)
            if dilation == 1
            else SeparableConvNormAct(joined, channels, dilation=dilation)
            for dilation in dilations
        )
        self.bottleneck = ConvNormAct(channels * len(dilations), channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.apply(_initialise)
        _initialise_classifier(self.classifier)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map (B, C_i, H_i, W_i), finest first, to logits (B, K, H_0, W_0)."""
        size = features[0].shape[2:]
        embedded = [
            _resize(_project(map_, linear), size)  # (B, E, H_0, W_0)
            for map_, linear in zip(features, self.embed, strict=True)
        ]
        # Linear layers leave the channels last in memory, where dilated depthwise convolutions take
        # three times as long (measured on a CPU and a GPU), whatever the layout of the rest.
        joined = torch.cat(embedded, dim=1).contiguous()  # (B, 4E, H_0, W_0)
        context = torch.cat([branch(joined) for branch in self.aspp], dim=1)
        logits: Tensor = self.classifier(self.dropout(self.bottleneck(context)))
        return logits


def mlp_head(
    in_channels: Sequence[int], channels: int, num_classes: int, *, dropout: float
) -> nn.Module:
    """Build SegFormer's own head: transformers' class, so that its weights are plain SegFormer.

    Takes and returns what `DAFormerHead` does; dropout is per element.
    """
    head: nn.Module = SegformerDecodeHead(
        SegformerConfig(
            hidden_sizes=list(in_channels),
            decoder_hidden_size=channels,
            classifier_dropout_prob=dropout,
            num_labels=num_classes,
        )
    )
    head.apply(_initialise)
    classifier = head.get_submodule("classifier")
    assert isinstance(classifier, nn.Conv2d)
    _initialise_classifier(classifier)
    return head


def _project(map_: Tensor, linear: nn.Module) -> Tensor:
    tokens = linear(map_.flatten(2).transpose(1, 2))  # (B, H_i W_i, E)
    projected: Tensor = tokens.transpose(1, 2).unflatten(2, map_.shape[2:])
    return projected


def _resize(map_: Tensor, size: torch.Size) -> Tensor:
    if map_.shape[2:] == size:
        return map_
    return F.interpolate(map_, size=size, mode="bilinear", align_corners=False)


def _initialise(module: nn.Module) -> None:
    """Convolutions as mmcv's ConvModule; linear layers keep PyTorch's own."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _initialise_classifier(classifier: nn.Conv2d) -> None:
    assert classifier.bias is not None
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
