"""Weights in a pass: copies in bfloat16, and gradients that are added up all at once.

Autocast casts the weights of linear layers and convolutions in every pass, and their gradients
back, one kernel each: a third of all launches of a step. Here all are copied at once. Autograd adds
the gradients of a second backward pass to the first one's weight by weight; here that is one
`foreach`, in float32 and to the same bits.
"""

from collections.abc import Mapping
from types import TracebackType

import torch
from torch import Tensor, nn


class HalfCopies:
    """Copies that stand in for weights while it is entered, where they are made at all.

    Within it the weights have no gradients. Leaving it normally adds those that came up, the
    copies' too, to those that were there before.
    """

    def __init__(self) -> None:
        self._weights: list[nn.Parameter] = []
        self._earlier: dict[nn.Parameter, Tensor] = {}
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        self._copies: dict[nn.Parameter, nn.Parameter] = {}

    def add(self, network: nn.Module, *, halve: bool) -> None:
        """Look after a network's gradients; `halve` copies its weights, where they are by now.

        Copied are weights and biases of linear layers and convolutions.
        """
        self._weights += [weight for weight in network.parameters() if weight.requires_grad]
        for module in network.modules() if halve else ():
            if not isinstance(module, nn.Linear | nn.Conv2d):
                continue
            for name, weight in module.named_parameters(recurse=False):
                if weight not in self._copies:
                    half = weight.detach().to(torch.bfloat16)
                    self._copies[weight] = nn.Parameter(half, weight.requires_grad)
                self._places.append((module, name, weight, self._copies[weight]))

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights again, after they moved."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._copies))

    def __enter__(self) -> None:
        self._earlier = {w: w.grad for w in self._weights if w.grad is not None}
        for weight in self._earlier:
            weight.grad = None
        for module, name, _, copy in self._places:
            module._parameters[name] = copy

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        for module, name, weight, _copy in self._places:
            module._parameters[name] = weight
        if kind is None:
            self._add_gradients()

    @torch.no_grad()
    def _add_gradients(self) -> None:
        halves = {w: copy.grad for w, copy in self._copies.items() if copy.grad is not None}
        gradients = [torch.empty_like(weight) for weight in halves]
        if halves:
            torch._foreach_copy_(gradients, list(halves.values()))
        for weight in halves:
            self._copies[weight].grad = None
        _add_to_weights(dict(zip(halves, gradients, strict=True)))
        _add_to_weights(self._earlier)
        self._earlier = {}


def _add_to_weights(gradients: Mapping[nn.Parameter, Tensor]) -> None:
    sums: list[Tensor] = []
    terms: list[Tensor] = []
    for weight, gradient in gradients.items():
        if weight.grad is None:
            weight.grad = gradient
        else:
            sums.append(weight.grad)
            terms.append(gradient)
    if sums:
        torch._foreach_add_(sums, terms)
