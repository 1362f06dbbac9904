"""Checks of a module of ours against a case: all of the case, and wrong copies of the module."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
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


def planted(module: ModuleType, *pieces: str) -> ModuleType:
    """Copy a module with pieces of its source replaced; each must be there, once.

    Args:
        module: Ours, left as it is.
        pieces: Right, wrong, and so on by turns.
    """
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    for right, wrong in zip(pieces[::2], pieces[1::2], strict=True):
        assert source.count(right) == 1, f"{source.count(right)} times in the module: {right}"
        source = source.replace(right, wrong)
    copy = ModuleType(module.__name__)
    exec(compile(source, module.__file__, "exec"), copy.__dict__)
    return copy


def assert_own(actual: Tensor | None, expected: Tensor, tol: float) -> None:
    """Require |actual - expected| <= tol * max|expected|; no gradient is one of zeros."""
    difference = expected if actual is None else actual.detach() - expected
    worst, largest = float(difference.abs().max()), float(expected.abs().max())
    assert worst <= tol * largest, f"differs by {worst:.3g}, the largest is {largest:.3g}"
