"""Checks of a module of ours against all of a case."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from tests.parity.cases import Case

Check = Callable[[ModuleType, Case], None]


class _Arrays(dict[str, NDArray[Any]]):
    """Arrays that remember which of them were read."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(arrays)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> NDArray[Any]:
        self.read.add(key)
        return super().__getitem__(key)


def check_all(check: Check, module: ModuleType, case: Case, *, but: str = "(?!)") -> None:
    """Run a check, which must read every result of the case whose name has no match of `but`."""
    arrays = _Arrays(case.arrays)
    check(module, replace(case, arrays=arrays))
    results = {key for key in arrays if key.startswith("out") and not re.search(but, key)}
    left_out = sorted(results - arrays.read)
    assert results
    assert not left_out, f"the check leaves out {', '.join(left_out)}"


def assert_own(actual: Tensor | None, expected: Tensor, tol: float) -> None:
    """Require |actual - expected| <= tol * max|expected|; no gradient is one of zeros."""
    difference = expected if actual is None else actual.detach() - expected
    worst, largest = float(difference.abs().max()), float(expected.abs().max())
    assert worst <= tol * largest, f"differs by {worst:.3g}, the largest is {largest:.3g}"
