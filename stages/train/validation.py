"""How to measure the student while it trains; the measuring itself is given from above."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stages.student.student import Student
from stages.train.networks import Network
from stages.train.regularizers.branch import Branch


@dataclass(frozen=True, slots=True)
class Validation:
    """A measurement of the student, and what it says about the choice of the best one.

    Attributes:
        measure: Student in eval mode -> mean IoU in percent; changes nothing.
        on: What is measured on, for instance "31 images of target/val".
        sees_target_labels: Whether the best student is chosen by labels of the target, which
            unsupervised adaptation does not have.
        measure_branch: Student and branch in eval mode -> mean IoU in percent with an image's own
            features (`enhanced`) and with another's (`wrong_teacher`).
    """

    measure: Callable[[Student], float]
    on: str
    sees_target_labels: bool
    measure_branch: Callable[[Student, Branch], dict[str, float]] | None = None


@contextmanager
def evaluating(network: Network) -> Iterator[Network]:
    """Put a network in eval mode; each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield network
    finally:
        for module, training in modes:
            module.training = training
