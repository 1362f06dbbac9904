"""Mask2Former's head (arXiv 2112.01527), whose queries are made of Rein's tokens.

Pixel decoder, transformer decoder, matching and losses are those of transformers, in PyTorch alone.

# B batch, K classes, Q queries, E width, C_i channels of map i, H W pixels, h w = H/4 W/4
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)
from transformers.utils import is_scipy_available

from stages.prepare.labels import IGNORE
from stages.student.rein import LowRankTokens, QueryLink
from store.errors import ConfigError

UNDECAYED: Final = ("norm", "level_embed", "queries_embedder")
"""What the names of weights without decay contain, as published; those of group norms do not."""

LEAST_SCORE: Final = 1e-6
"""Scores are at least this, so that their logarithms are finite."""


class Sets(NamedTuple):
    """What queries say after a layer of the decoder, as logits."""

    classes: Tensor  # (B, Q, K + 1); the last is of no object
    masks: Tensor  # (B, Q, h, w)


class QueryHead(nn.Module):
    """Decode maps by queries, each of which names a class and masks where it is.

    Args:
        channels: C_i, finest first, at strides 4, 8, 16 and 32.
        width: E, a multiple of 32 (published 256); feed-forward layers have 4 E and 8 E.
        num_classes: K.
        queries: Q, at least K (published 100).
        tokens: Make the queries; None learns some that know no tokens, as in the published control.

    Raises:
        ConfigError: If there are fewer queries than classes.
    """

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        num_classes: int,
        *,
        queries: int,
        tokens: LowRankTokens | None,
    ) -> None:
        super().__init__()
        if queries < num_classes:
            raise ConfigError(
                f"train.student.rein.tokens: {queries} queries cannot name {num_classes} classes; "
                "raise it to that or more, or set train.student.head to daformer"
            )
        self.config = Mask2FormerConfig(  # all else of it is as published
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            encoder_feedforward_dim=4 * width,
            dim_feedforward=8 * width,
            num_queries=queries,
            num_labels=num_classes,
        )
        self.pixels = Mask2FormerPixelDecoder(self.config, list(channels))
        self.decoder = Mask2FormerTransformerModule(width, self.config)
        initial = Mask2FormerPreTrainedModel(self.config)._init_weights
        self.pixels.apply(initial)
        self.decoder.apply(initial)
        self.classifier = nn.Linear(width, num_classes)
        self.no_object = nn.Linear(width, 1)
        self._held = (tokens,)  # they are the backbone's; a tuple's modules are not registered
        if tokens is not None:
            self.link = QueryLink(channels[0], width)
            self.to_content = nn.Linear(width, width)
            for embedding in (self.decoder.queries_embedder, self.decoder.queries_features):
                del embedding.weight  # given in each pass
                embedding.register_buffer("weight", torch.empty(queries, width), persistent=False)

    def predict(self, features: Sequence[Tensor]) -> list[Sets]:
        """Map four maps (B, C_i, h_i, w_i), finest first, to what queries say layer by layer.

        The first of ten is what they say before the nine layers.
        """
        seen = self.pixels(features)
        given: dict[str, Tensor] = {}
        (tokens,) = self._held
        if tokens is not None:
            queries = self.link(tokens)
            given["queries_embedder.weight"] = queries
            given["queries_features.weight"] = self.to_content(queries)
        decoded = functional_call(
            self.decoder, given, (seen.multi_scale_features, seen.mask_features)
        )
        layers = (each.transpose(0, 1) for each in decoded.intermediate_hidden_states)
        return [
            Sets(torch.cat([self.classifier(layer), self.no_object(layer)], dim=-1), masks)
            for layer, masks in zip(layers, decoded.masks_queries_logits, strict=True)
        ]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map four maps, as `predict`, to logits (B, K, h, w)."""
        return logits_of(self.predict(features)[-1])

    def losses(self, features: Sequence[Tensor], label: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss after the last layer, and the sum of those before it; as `set_loss`."""
        *before, last = self.predict(features)
        others = [set_loss(each, label, self.config) for each in before]
        return set_loss(last, label, self.config), torch.stack(others).sum()


def logits_of(said: Sets) -> Tensor:
    """Return logarithms of the published scores (section 3.2), whose order they keep.

    The score of a class sums the masks of all queries, weighted by how sure each is of the class.

    Differs from Mask2Former, which has no logits: everything after this head expects some,
    (B, K, h, w) float32.
    """
    classes = said.classes.float().softmax(dim=-1)[..., :-1]
    scores = torch.einsum("bqk,bqhw->bkhw", classes, said.masks.float().sigmoid())
    return scores.float().clamp(min=LEAST_SCORE).log()


def set_loss(said: Sets, label: Tensor, config: Mask2FormerConfig) -> Tensor:
    """Match queries with the classes of each image, and add the losses of pairs, as published.

    These are the cross entropy of all queries' classes (weight 2), and binary cross entropy and
    dice of the matched masks at random points (5 each). Pixels that the label (B, H, W) ignores
    belong to no mask. The matching waits for the device.
    """
    present = [each.unique() for each in label]
    present = [ids[ids != IGNORE] for ids in present]
    masks = [(each == ids[:, None, None]).float() for each, ids in zip(label, present, strict=True)]
    weights = {
        "loss_cross_entropy": config.class_weight,
        "loss_mask": config.mask_weight,
        "loss_dice": config.dice_weight,
    }
    with torch.autocast(label.device.type, enabled=False):
        loss = Mask2FormerLoss(config, weights).to(label.device)
        found = loss(said.masks.float(), said.classes.float(), masks, present)
        return torch.stack([weight * found[name] for name, weight in weights.items()]).sum()


def require_matching() -> None:
    """Refuse to train where the package that matches queries is missing.

    Raises:
        ConfigError: There is no scipy, which transformers takes the Hungarian algorithm from.
    """
    if not is_scipy_available():
        raise ConfigError(
            "train.student.head mask2former needs the package scipy for its loss: "
            "pip install -e '.[mask2former]'"
        )
