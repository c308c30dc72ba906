"""Does a score mean margin? What other train sets did to margins, against what scores said."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trak_steps.evaluation.intervals import Interval, interval
from trak_steps.evaluation.resamples import Resamples

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


class SlopeOverSubsets:
    """How far margins differ between subsets of the train set for each unit that scores predict.

    Each target's own mean is taken off both sides, so the slope is that of differences, over all
    targets; some of them at a time.

    Args:
        resamples: of the subsets, and of all targets.
    """

    def __init__(self, resamples: Resamples) -> None:
        self._resamples = resamples
        self._together = self._own = 0.0
        self._each = np.zeros((2, len(resamples.subsets)))
        self._differ = True

    def add(self, start: int, margins: Array, predicted: Array) -> None:
        """Take what is known of some targets.

        Args:
            start: the place of the first.
            margins: averaged over a subset's trainings, [s, g].
            predicted: the sum of the scores of the rows that a subset holds, [s, g].
        """
        x, y = predicted - predicted.mean(0), margins - margins.mean(0)
        own = (x * x).sum(0)
        self._differ &= bool((own > 0).all())
        self._together += float((x * y).sum())
        self._own += float(own.sum())
        self._each += self._resamples.covariances(x, y, start)

    def result(self) -> Interval | None:
        """The slope; none where the predictions of a target do not differ between subsets."""
        if not self._differ:
            return None
        above, below = self._each
        slopes = above[below > 0] / below[below > 0]
        return interval(self._together / self._own, slopes, self._resamples.subsets.shape[1])
