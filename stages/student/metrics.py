"""Mean intersection over union from a streamed confusion matrix.

Legend: H W pixels, K classes. Shares are fractions in [0, 1]; `Metrics` is in percent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stages.prepare.labels import IGNORE
from store.errors import DataError


class ConfusionMatrix:
    """Pixel counts by (label, prediction), summed over as many images as are given.

    The official report is made of these sums, too (mmseg `core/evaluation/metrics.py`), from
    predictions that it keeps in memory.

    Attributes:
        counts: int64 (K, K), rows are labels, columns predictions.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: ArrayLike, label: ArrayLike) -> None:
        """Count class ids 0..K-1 of any one shape, on the CPU.

        Where the label is 255 the pixel counts nowhere, whatever was predicted.
        """
        predicted, labelled = np.asarray(prediction), np.asarray(label)
        counted = labelled != IGNORE
        size = len(self.counts)
        pairs = size * labelled[counted].astype(np.int64) + predicted[counted]
        self.counts += np.bincount(pairs, minlength=size * size).reshape(size, size)

    @property
    def intersect(self) -> NDArray[np.int64]:
        """Correctly predicted pixels per class, (K,)."""
        return self.counts.diagonal()

    @property
    def label_area(self) -> NDArray[np.int64]:
        """Labelled pixels per class, (K,)."""
        area: NDArray[np.int64] = self.counts.sum(axis=1)
        return area

    @property
    def prediction_area(self) -> NDArray[np.int64]:
        """Predicted pixels per class where there is a label, (K,)."""
        area: NDArray[np.int64] = self.counts.sum(axis=0)
        return area

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels that are labelled or predicted as the class, (K,)."""
        return self.label_area + self.prediction_area - self.intersect

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class, (K,); NaN where it is not labelled nor predicted."""
        return _share(self.intersect, self.union)

    def class_accuracy(self) -> NDArray[np.float64]:
        """Share of each class's labelled pixels that is correct, (K,); NaN without a label."""
        return _share(self.intersect, self.label_area)

    def accuracy(self) -> float:
        """Share of all labelled pixels that is correct; NaN if there is none."""
        return float(_share(self.intersect.sum(), self.label_area.sum()))

    def mean_iou(self, class_ids: Sequence[int] | None = None) -> float:
        """Mean over those classes, or all, whose IoU is defined; NaN if there is none."""
        iou = self.iou()
        return _mean(iou if class_ids is None else iou[list(class_ids)])

    def mean_accuracy(self) -> float:
        """Mean over the classes that have a label; NaN if there is none."""
        return _mean(self.class_accuracy())


@dataclass(frozen=True, slots=True)
class Metrics:
    """The official report: percent, rounded to two decimals; None where a class is undefined.

    Means are taken before rounding.
    """

    miou: float  # over the classes that are defined ("mIoU")
    accuracy: float  # correct share of all labelled pixels ("aAcc")
    mean_accuracy: float  # mean of the classes' accuracies ("mAcc")
    images: int
    iou: Mapping[str, float | None]  # by class name, in the order of the class table
    class_accuracy: Mapping[str, float | None]
    subsets: Mapping[str, float | None] = field(default_factory=dict)  # mean IoU of some classes

    @classmethod
    def of(
        cls,
        matrix: ConfusionMatrix,
        names: Sequence[str],
        *,
        images: int,
        subsets: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> "Metrics":
        """Report a matrix under its class names, with further means over `subsets` of them.

        Raises:
            DataError: Not one labelled pixel was counted.
        """
        if not matrix.counts.any():
            raise DataError(
                f"nothing to measure: no labelled pixel in {images} images; "
                "check the label table of this domain"
            )
        return cls(
            miou=_percent(matrix.mean_iou()),
            accuracy=_percent(matrix.accuracy()),
            mean_accuracy=_percent(matrix.mean_accuracy()),
            images=images,
            iou=_by_name(names, matrix.iou()),
            class_accuracy=_by_name(names, matrix.class_accuracy()),
            subsets={
                subset: _percent_or_none(matrix.mean_iou([names.index(name) for name in chosen]))
                for subset, chosen in subsets.items()
            },
        )


def _share(part: ArrayLike, whole: ArrayLike) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: the class is undefined
        return np.true_divide(part, whole, dtype=np.float64)


def _mean(shares: NDArray[np.float64]) -> float:
    return float("nan") if np.isnan(shares).all() else float(np.nanmean(shares))


def _percent(share: float) -> float:
    return float(np.round(share * 100, 2))


def _percent_or_none(share: float) -> float | None:
    return None if np.isnan(share) else _percent(share)


def _by_name(names: Sequence[str], shares: NDArray[np.float64]) -> dict[str, float | None]:
    return dict(zip(names, map(_percent_or_none, shares.tolist()), strict=True))
