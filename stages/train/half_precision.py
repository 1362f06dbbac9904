"""bfloat16 copies of the weights that autocast would cast, made once per step.

Autocast casts the weights of linear layers and convolutions in every pass, and their gradients
back, one kernel each: a third of all launches of a step. Here all are copied at once, and the
gradients of each backward pass are added up in float32 as under autocast, to the same bits.
"""

from collections.abc import Iterable
from types import TracebackType

import torch
from torch import Tensor, nn


class HalfCopies:
    """Copies that stand in for the weights of modules while it is entered.

    Leaving it normally adds the gradients of the copies to those of the weights. Without modules,
    as in float32, it does nothing.
    """

    def __init__(self) -> None:
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        self._copies: dict[nn.Parameter, nn.Parameter] = {}

    def add(self, modules: Iterable[nn.Module]) -> None:
        """Copy weights and biases of linear layers and convolutions, where they are by now."""
        for module in modules:
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
        if not halves:
            return
        gradients = [torch.empty_like(weight) for weight in halves]
        torch._foreach_copy_(gradients, list(halves.values()))
        sums: list[Tensor] = []
        terms: list[Tensor] = []
        for weight, gradient in zip(halves, gradients, strict=True):
            self._copies[weight].grad = None
            if weight.grad is None:
                weight.grad = gradient
            else:
                sums.append(weight.grad)
                terms.append(gradient)
        if sums:
            torch._foreach_add_(sums, terms)
