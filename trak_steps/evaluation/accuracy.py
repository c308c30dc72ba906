"""How often the checkpoints are right on a target set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Accuracy:
    """Of m checkpoints on t targets.

    Attributes:
        mean: of the checkpoints' accuracies.
        std: their standard deviation; none for a single checkpoint.
        chance: of always naming the most frequent class.
    """

    mean: float
    std: float | None
    chance: float


def accuracy(predictions: NDArray[np.integer], labels: NDArray[np.integer]) -> Accuracy:
    """Accuracy of m checkpoints.

    Args:
        predictions: class numbers, [m, t].
        labels: [t].
    """
    each = (predictions == labels).mean(1)
    _, counts = np.unique(labels, return_counts=True)
    return Accuracy(
        mean=float(each.mean()),
        std=float(each.std(ddof=1)) if len(each) > 1 else None,
        chance=float(counts.max() / len(labels)),
    )
