"""Whether a classifier's outputs stand for the classes in another order than is believed.

Its predictions tell: if output 0 is largest for rows of class 1 and output 1 for rows of class 0, the
two are exchanged. Some order always fits the rows at hand best, by chance too, so it is found on one
half of the rows and tried on the other, and what it gains there is held against what it would gain if
predictions had nothing to do with labels. A model that has learnt nothing, or that always says the
same class, shows no order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

# One untrained model in thirty thousand would be taken for one with another order.
SIGMAS = 4.0


@dataclass(frozen=True)
class OtherOrder:
    """An order that fits a classifier's predictions far better.

    Attributes:
        classes: the class that each output stands for, [c].
        accuracy: of the predictions as they are.
        better: of the predictions in the other order, on rows that it was not found on.
    """

    classes: tuple[int, ...]
    accuracy: float
    better: float


def other_order(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> OtherOrder | None:
    """The order of classes that fits predictions far better than their own numbers; none if none does.

    Args:
        labels: of n rows, [n].
        predictions: the output that is largest, [n].
        classes: how many there are, c.
    """
    counts = np.stack([_counts(labels[half::2], predictions[half::2], classes) for half in (0, 1)])
    n = counts.sum()
    tried = [_tried(counts[1 - half], _best(counts[half])) for half in (0, 1)]
    gain, chance, variance, right = np.sum(tried, 0)
    order = _best(counts.sum(0))
    if gain - chance <= SIGMAS * np.sqrt(variance) or (order == np.arange(classes)).all():
        return None
    return OtherOrder(tuple(order.tolist()), float(np.trace(counts.sum(0)) / n), float(right / n))


def _counts(
    labels: NDArray[np.int64], predictions: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """How many rows of each class have each output largest, [c, c]."""
    return np.bincount(classes * labels + predictions, minlength=classes**2).reshape(classes, classes)


def _best(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class of each output, [c], such that most rows are right; in ties, its own number."""
    own = np.eye(len(counts)) / (2 * len(counts))
    _, order = linear_sum_assignment((counts + own).T, maximize=True)
    return np.asarray(order, np.int64)


def _tried(counts: NDArray[np.int64], order: NDArray[np.int64]) -> tuple[float, float, float, float]:
    """What an order gains on rows that it was not found on.

    Returns:
        How many more rows are right; mean and variance of that number if labels were dealt out anew
        at random (the permutation distribution of a linear statistic); how many are right.
    """
    c = len(counts)
    right = np.zeros((c, c))
    right[order, np.arange(c)] = 1.0
    gain = right - np.eye(c)
    n = counts.sum()
    if n < 2:
        return 0.0, 0.0, 0.0, float((right * counts).sum())
    rows, columns = counts.sum(1) / n, counts.sum(0) / n
    of_rows, of_columns = gain @ columns, rows @ gain
    mean = float(rows @ of_rows)
    centred = gain - of_rows[:, None] - of_columns + mean
    variance = float(n * n / (n - 1) * (rows @ centred**2 @ columns))
    return float((gain * counts).sum()), n * mean, variance, float((right * counts).sum())
