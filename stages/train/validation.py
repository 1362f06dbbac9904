"""How to measure the student while it trains; the measuring itself is given from above."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stages.train.model.student import Student


@dataclass(frozen=True, slots=True)
class Validation:
    """A measurement of the student, and what it says about the choice of the best one.

    Attributes:
        measure: Student in eval mode -> mean IoU in percent; changes nothing.
        on: What is measured on, for instance "31 images of target/val".
        sees_target_labels: Whether the best student is chosen by labels of the target, which
            unsupervised adaptation does not have.
    """

    measure: Callable[[Student], float]
    on: str
    sees_target_labels: bool


@contextmanager
def evaluating(student: Student) -> Iterator[Student]:
    """Put the student in eval mode; each of its modules gets its own mode back."""
    modes = [(module, module.training) for module in student.modules()]
    student.eval()
    try:
        yield student
    finally:
        for module, training in modes:
            module.training = training
