"""The linear datamodeling score (Park et al. 2023, section 2, equation 4), and what bounds it.

Models are trained on s random subsets of the train set. For each of t targets, the margins that they
give it are compared, by Spearman's correlation over subsets, with what scores predict: the sum over
the rows that a subset holds. The mean over targets is the LDS.

Two things are needed to read one. Counting labels already predicts much, so the *class-adjusted* LDS
has the class counts of each subset regressed out of both sides. And training again on the same subset
with another seed gives other margins, so even the expected margin itself would not score 1: the
*ceiling* is what it would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.evaluation.intervals import Interval, interval
from trak_steps.evaluation.ranks import spearman, standard_ranks
from trak_steps.evaluation.resamples import Resamples

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What models that were trained on subsets say of targets.

    Attributes:
        margins: of each subset's trainings, [r, s, t].
        classes: how many rows of each class a subset holds, [s, c].
    """

    margins: NDArray[np.floating]
    classes: Array


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
    together = _pairs([standard_ranks(of_repeat) for of_repeat in margins])
    return _of_mean(float(together.mean()) / (r * (r - 1)), r)


def _pairs(units: Sequence[Array]) -> Array:
    """The sum of the correlations of all ordered pairs of r columns of unit length [s, t]: [t]."""
    # Σ_{i≠j} u_i·u_j = |Σ u_i|² − Σ |u_i|²
    pairs: Array = (reduce(np.add, units) ** 2).sum(0) - sum((of_one**2).sum(0) for of_one in units)
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


def _ceiling(together: float, r: int) -> float:
    """The ceiling, by the mean correlation of two of r trainings."""
    return float(np.sqrt(_of_mean(together, r)))


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


class Lds:
    """The LDS of each prediction, with intervals over subsets and targets, some targets at a time.

    Ranks are those among all subsets; a resample weighs them, and correlates what it has of them.

    Args:
        classes: how many rows of each class a subset holds, [s, c].
        resamples: of the subsets, and of all t targets.
        adjusted: whether class-adjusted.
    """

    def __init__(self, classes: Array, resamples: Resamples, *, adjusted: bool) -> None:
        self._classes = classes if adjusted else None
        self._resamples = resamples
        self._subsets, self._targets = resamples.subsets.shape[1], resamples.targets.shape[1]
        # Sums over targets, over t: of each prediction's correlations, and of those of trainings.
        self._found: dict[Any, float] = {}
        self._each: dict[Any, Array] = {}
        self._repeats, self._together = 0, 0.0
        self._together_each = np.zeros(len(resamples.subsets))

    def add(self, start: int, margins: Array, predictions: Mapping[Any, Array]) -> None:
        """Take what is known of some targets.

        Args:
            start: the place of the first.
            margins: of r ≥ 2 trainings on each of s subsets, [r, s, g].
            predictions: sums of scores over each subset's rows, [s, g] each; the same in each call.
        """
        left = [self._adjusted(of_repeat) for of_repeat in margins]
        ranks = standard_ranks(np.mean(left, 0))
        for name, values in predictions.items():
            predicted = standard_ranks(self._adjusted(values))
            found = float(np.einsum("st,st->", ranks, predicted)) / self._targets
            self._found[name] = self._found.get(name, 0.0) + found
            each = self._resamples.correlations(ranks, predicted, start)
            self._each[name] = self._each[name] + each if name in self._each else each
        self._repeats = len(left)
        trainings = [standard_ranks(of_repeat) for of_repeat in left]
        self._together += _pairs(trainings).sum() / self._targets
        for i, one in enumerate(trainings):
            for other in trainings[:i]:
                self._together_each += 2 * self._resamples.correlations(one, other, start)

    def result(self) -> Measured:
        """What was measured, once all targets were taken."""
        r = self._repeats
        pairs = r * (r - 1)
        top = _ceiling(self._together / pairs, r)
        tops = np.array([_ceiling(together / pairs, r) for together in self._together_each])
        safe = top > 0 and tops.min() > 0
        names = list(self._found)
        first, first_each = self._found[names[0]], self._each[names[0]]
        found, each, of = self._found, self._each, self._interval
        return Measured(
            scores={name: of(found[name], each[name], -1.0, 1.0) for name in names},
            ceiling=of(top, tops, 0.0, 1.0),
            shares={name: of(found[name] / top, each[name] / tops) if safe else None for name in names},
            differences={name: of(found[name] - first, each[name] - first_each) for name in names},
        )

    def _interval(
        self, value: float, resampled: Array, least: float = -np.inf, most: float = np.inf
    ) -> Interval:
        spent = 0
        if self._classes is not None:
            # As many directions of the subsets are gone as the counts span.
            spent = int(np.linalg.matrix_rank(self._classes - self._classes.mean(0)))
        found = interval(value, resampled, self._subsets, spent=spent)
        return Interval(found.value, max(found.low, least), min(found.high, most))

    def _adjusted(self, values: Array) -> Array:
        return values if self._classes is None else class_adjusted(values, self._classes)


def measure(
    truth: Truth, predictions: Mapping[Any, Array], *, adjusted: bool, resamples: int, seed: int
) -> Measured:
    """The LDS of each prediction for all targets at once: see :class:`Lds`.

    Args:
        truth: r ≥ 2 trainings of s subsets, t targets.
        predictions: sums of scores over each subset's rows, [s, t] each.
        adjusted: class-adjusted.
        resamples: of the bootstrap.
        seed: draws them.
    """
    _, s, t = truth.margins.shape
    lds = Lds(truth.classes, Resamples.draw(s, t, resamples, seed), adjusted=adjusted)
    lds.add(0, truth.margins.astype(np.float64), predictions)
    return lds.result()
