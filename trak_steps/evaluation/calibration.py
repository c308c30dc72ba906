"""Does a score mean margin? What other train sets did to margins, against what scores said."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.evaluation.intervals import Interval, interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How much margin is lost for each unit that scores predict.

    Attributes:
        slope: of the loss on the prediction, through zero.
        correlation: of the two, over all removals; none for fewer than three.
    """

    slope: Interval
    correlation: float | None


def calibrate(
    lost: Array, predicted: Array, targets: NDArray[np.integer], *, resamples: int, seed: int
) -> Calibration | None:
    """Regress what was lost on what was predicted.

    Args:
        lost: how far each removal lowered its target's margin, in each of r trainings, [r, q].
        predicted: the sum of the scores of the rows removed, [q].
        targets: the target of each removal, [q]; the removals of one are not independent, for all are
            held against the same models.
        resamples: of the bootstrap, over targets and trainings.
        seed: draws them.

    Returns:
        None where nothing was predicted, or for a single target.
    """
    names = np.unique(targets)
    if len(names) < 2 or not (predicted**2).sum() > 0:
        return None
    of_target = [np.flatnonzero(targets == name) for name in names]
    r = len(lost)
    draw = np.random.default_rng([seed, resamples])
    slopes = []
    for _ in range(resamples):
        removals = np.concatenate([of_target[i] for i in draw.integers(0, len(names), len(names))])
        trainings = draw.integers(0, r, r)
        x, y = predicted[removals], lost[trainings].mean(0)[removals]
        if (x**2).sum() > 0:
            slopes.append((x @ y) / (x @ x))
    mean = lost.mean(0)
    slope = interval(predicted @ mean / (predicted @ predicted), np.array(slopes), len(names))
    varied = len(predicted) > 2 and predicted.std() > 0 and mean.std() > 0
    correlation = float(np.corrcoef(predicted, mean)[0, 1]) if varied else None
    return Calibration(slope, correlation)


def slope_over_subsets(
    margins: Array, predicted: Array, *, resamples: int, seed: int
) -> Interval | None:
    """How far margins differ between subsets of the train set for each unit that scores predict.

    Each target's own mean is taken off both sides, so the slope is that of differences, over all
    targets.

    Args:
        margins: averaged over a subset's trainings, [s, t].
        predicted: the sum of the scores of the rows that a subset holds, [s, t].
        resamples: of the bootstrap, over subsets and targets.
        seed: draws them.

    Returns:
        None where the predictions of a target do not differ between subsets.
    """
    s, t = margins.shape

    def products(subsets: NDArray[Any]) -> tuple[Array, Array]:
        x, y = predicted[subsets], margins[subsets]
        x = x - x.mean(0)
        return (x * y).sum(0), (x * x).sum(0)

    together, own = products(np.arange(s))
    if not (own > 0).all():
        return None
    draw = np.random.default_rng([seed, resamples])
    slopes = np.full(resamples, np.nan)
    for i in range(resamples):
        subsets, targets = draw.integers(0, s, (s,)), draw.integers(0, t, (t,))
        above, below = products(subsets)
        if below[targets].sum() > 0:
            slopes[i] = above[targets].sum() / below[targets].sum()
    return interval(together.sum() / own.sum(), slopes[np.isfinite(slopes)], s)
