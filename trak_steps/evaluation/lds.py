"""The linear datamodeling score (Park et al. 2023, section 2, equation 4), and what bounds it.

Models are trained on s random subsets of the train set. For each of t targets, the margins that they
give it are compared, by Spearman's correlation over subsets, with what scores predict: the sum over
the rows that a subset holds. The mean over targets is the LDS.

Two things are needed to read one. Counting labels already predicts much, so the *class-adjusted* LDS
has the class counts of each subset regressed out of both sides. And training again on the same subset
with another seed gives other margins, so even the expected margin itself would not score 1: the
*ceiling* is what it would.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.evaluation.intervals import Interval, interval
from trak_steps.evaluation.ranks import spearman, standard_ranks

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What models that were trained on subsets say of targets.

    Attributes:
        margins: of each subset's trainings, [r, s, t].
        classes: how many rows of each class a subset holds, [s, c].
    """

    margins: Array
    classes: Array

    @property
    def mean(self) -> Array:
        """Averaged over a subset's trainings, [s, t]."""
        mean: Array = self.margins.mean(0)
        return mean


def class_adjusted(values: Array, classes: Array) -> Array:
    """What is left of each column [s, t] when it is regressed on the class counts [s, c]."""
    design = np.column_stack([np.ones(len(classes)), classes]).astype(np.float64)
    fitted, *_ = np.linalg.lstsq(design, values, rcond=None)
    left = values - design @ fitted
    # A prediction that class counts explain wholly leaves rounding, which would rank at random.
    gone = np.linalg.norm(left, axis=0) <= 1e-6 * np.linalg.norm(values - values.mean(0), axis=0)
    left[:, gone] = 0.0
    return left


def lds(margins: Array, predictions: Array) -> float:
    """The LDS of predictions [s, t] for margins [s, t]."""
    return float(spearman(margins, predictions).mean())


def reliability(margins: Array) -> float:
    """How much of what margins averaged over r trainings [r, s, t] rank is the subset's own.

    The mean rank correlation of two trainings' margins, over pairs and targets, by the formula of
    Spearman and Brown for the mean of r.
    """
    r = len(margins)
    together = _pairs(np.stack([standard_ranks(of_repeat) for of_repeat in margins]))
    return _of_mean(float(together.mean()) / (r * (r - 1)), r)


def _pairs(units: Array) -> Array:
    """The sum of the correlations of all ordered pairs of r columns of unit length [r, s, t]: [t]."""
    # Σ_{i≠j} u_i·u_j = |Σ u_i|² − Σ |u_i|²
    pairs: Array = (units.sum(0) ** 2).sum(0) - (units**2).sum((0, 1))
    return pairs


def _of_mean(single: float, r: int) -> float:
    """The reliability of a mean of r, from that of one; never below zero."""
    single = max(0.0, single)
    return r * single / (1 + (r - 1) * single)


def ceiling(margins: Array) -> float:
    """About the LDS that the expected margins themselves would have: √ of the reliability.

    Where targets differ in how reliable their margins are, they would have less: the mean of roots is
    below the root of the mean. A single target's reliability is too uncertain to do better.
    """
    return float(np.sqrt(reliability(margins)))


@dataclass(frozen=True)
class Measured:
    """The LDS of several predictions against one truth, from the same resamples.

    Attributes:
        scores: by the predictions' names.
        ceiling: of the truth.
        shares: each LDS over the ceiling, by name; none where the ceiling may be zero.
        differences: each LDS less that of the first predictions, by name.
    """

    scores: Mapping[Any, Interval]
    ceiling: Interval
    shares: Mapping[Any, Interval | None]
    differences: Mapping[Any, Interval]


def measure(
    truth: Truth, predictions: Mapping[Any, Array], *, adjusted: bool, resamples: int, seed: int
) -> Measured:
    """The LDS of each prediction, with intervals over subsets and targets.

    Ranks are those among all subsets; a resample weighs them, and correlates what it has of them.

    Args:
        truth: r ≥ 2 trainings of s subsets, t targets.
        predictions: sums of scores over each subset's rows, [s, t] each.
        adjusted: class-adjusted.
        resamples: of the bootstrap: subsets and targets are both drawn with replacement.
        seed: draws them.
    """
    margins = truth.margins
    values = dict(predictions)
    spent = 0
    if adjusted:
        margins = np.stack([class_adjusted(of_repeat, truth.classes) for of_repeat in margins])
        values = {name: class_adjusted(given, truth.classes) for name, given in values.items()}
        # As many directions of the subsets are gone as the counts span.
        spent = int(np.linalg.matrix_rank(truth.classes - truth.classes.mean(0)))
    ranks = standard_ranks(margins.mean(0))
    weights = _Weights.draw(ranks.shape, resamples, seed)
    names = list(values)
    found, each = np.empty(len(names)), np.empty((resamples, len(names)))
    for j, name in enumerate(names):
        predicted = standard_ranks(values[name])
        found[j] = np.einsum("st,st->t", ranks, predicted).mean()
        each[:, j] = weights.correlations(ranks, predicted)
    top = ceiling(margins)
    tops = weights.ceilings(np.stack([standard_ranks(of_repeat) for of_repeat in margins]))
    safe = top > 0 and tops.min() > 0

    def of(value: float, resampled: Array, least: float = -np.inf, most: float = np.inf) -> Interval:
        found = interval(value, resampled, len(ranks), spent=spent)
        return Interval(found.value, max(found.low, least), min(found.high, most))

    return Measured(
        scores={name: of(found[j], each[:, j], -1.0, 1.0) for j, name in enumerate(names)},
        ceiling=of(top, tops, 0.0, 1.0),
        shares={
            name: of(found[j] / top, each[:, j] / tops) if safe else None for j, name in enumerate(names)
        },
        differences={
            name: of(found[j] - found[0], each[:, j] - each[:, 0]) for j, name in enumerate(names)
        },
    )


# Resamples, times targets, that are worked on together.
TOGETHER = 2**20


@dataclass(frozen=True)
class _Weights:
    """How often each resample has each subset and target, as shares.

    Attributes:
        subsets: [b, s].
        targets: [b, t].
    """

    subsets: Array
    targets: Array

    @classmethod
    def draw(cls, shape: tuple[int, int], resamples: int, seed: int) -> "_Weights":
        draw = np.random.default_rng([seed, resamples])
        s, t = shape
        subsets = draw.multinomial(s, np.full(s, 1 / s), resamples) / s
        return cls(subsets, draw.multinomial(t, np.full(t, 1 / t), resamples) / t)

    def correlations(self, first: Array, second: Array) -> Array:
        """The mean over targets of the correlation of columns [s, t], in each resample: [b]."""
        found = np.empty(len(self.subsets))
        rows = max(1, TOGETHER // first.shape[1])
        for start in range(0, len(found), rows):
            part = slice(start, start + rows)
            weights = self.subsets[part]
            means = weights @ first, weights @ second
            within = weights @ (first * second) - means[0] * means[1]
            spreads = [
                (weights @ values**2 - mean**2).clip(min=0)
                for values, mean in zip((first, second), means, strict=True)
            ]
            found[part] = (self.targets[part] * _over(within, np.sqrt(spreads[0] * spreads[1]))).sum(1)
        return found

    def ceilings(self, ranks: Array) -> Array:
        """The ceiling of r trainings' ranks [r, s, t] in each resample: [b]."""
        r = len(ranks)
        found = np.empty(len(self.subsets))
        for i, (subsets, targets) in enumerate(zip(self.subsets, self.targets, strict=True)):
            centred = ranks - np.einsum("s,rst->rt", subsets, ranks)[:, None]
            weighed = np.sqrt(subsets)[:, None] * centred
            units = _over(weighed, np.linalg.norm(weighed, axis=1)[:, None])
            found[i] = _of_mean(float(_pairs(units) @ targets) / (r * (r - 1)), r)
        return np.sqrt(found)


def _over(values: Array, by: Array) -> Array:
    """A quotient that is zero where a column is constant, but for rounding, and orders nothing."""
    return np.divide(values, by, out=np.zeros_like(values), where=by > 1e-9)
