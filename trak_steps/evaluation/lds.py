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
from trak_steps.evaluation.ranks import spearman, standard_ranks, standardised

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
    """How much of the variance of margins averaged over r trainings [r, s, t] is the subset's own.

    The mean correlation of two trainings' margins, over pairs and targets, by the formula of Spearman
    and Brown for the mean of r.
    """
    r = len(margins)
    units = np.stack([standardised(of_repeat) for of_repeat in margins])
    together = units.sum(0)
    # Σ_{i≠j} u_i·u_j = |Σ u_i|² − Σ |u_i|²
    pairs = (together**2).sum(0) - (units**2).sum((0, 1))
    single = max(0.0, float(pairs.mean()) / (r * (r - 1)))
    return r * single / (1 + (r - 1) * single)


def ceiling(margins: Array) -> float:
    """About the LDS that the expected margins themselves would have: √ of the reliability."""
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

    Args:
        truth: r ≥ 2 trainings of s subsets, t targets.
        predictions: sums of scores over each subset's rows, [s, t] each.
        adjusted: class-adjusted.
        resamples: of the bootstrap: subsets and targets are both drawn with replacement.
        seed: draws them.
    """
    margins = truth.margins
    values = dict(predictions)
    if adjusted:
        margins = np.stack([class_adjusted(of_repeat, truth.classes) for of_repeat in margins])
        values = {name: class_adjusted(given, truth.classes) for name, given in values.items()}
    mean = margins.mean(0)
    names = list(values)
    found = np.array([lds(mean, values[name]) for name in names])
    top = ceiling(margins)
    draw = np.random.default_rng([seed, resamples])
    s, t = mean.shape
    each = np.empty((resamples, len(names)))
    tops = np.empty(resamples)
    for i in range(resamples):
        subsets, targets = draw.integers(0, s, s), draw.integers(0, t, t)
        # Ranks within the resample; a target that comes twice counts twice.
        weights = np.bincount(targets, minlength=t) / t
        ranked = standard_ranks(mean[subsets])
        for j, name in enumerate(names):
            each[i, j] = np.einsum("st,st->t", ranked, standard_ranks(values[name][subsets])) @ weights
        tops[i] = ceiling(margins[:, subsets][:, :, targets])
    safe = top > 0 and tops.min() > 0
    return Measured(
        scores={name: interval(found[j], each[:, j]) for j, name in enumerate(names)},
        ceiling=interval(top, tops),
        shares={
            name: interval(found[j] / top, each[:, j] / tops) if safe else None
            for j, name in enumerate(names)
        },
        differences={
            name: interval(found[j] - found[0], each[:, j] - each[:, 0]) for j, name in enumerate(names)
        },
    )
