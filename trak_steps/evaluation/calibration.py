"""Does a score mean margin? What leaving rows out did, against what scores said it would."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trak_steps.evaluation.intervals import Interval, interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How much margin is lost for each unit that scores predict.

    Attributes:
        slope: of the loss on the prediction, through zero: 1 where a score is in units of margin.
        correlation: of the two, over all removals; none for fewer than three.
    """

    slope: Interval
    correlation: float | None


def calibrate(lost: Array, predicted: Array, *, resamples: int, seed: int) -> Calibration | None:
    """Regress what was lost on what was predicted.

    Args:
        lost: how far each removal lowered its target's margin, in each of r trainings, [r, q].
        predicted: the sum of the scores of the rows removed, [q].
        resamples: of the bootstrap, over removals and trainings.
        seed: draws them.

    Returns:
        None where nothing was predicted.
    """
    if not (predicted**2).sum() > 0:
        return None
    r, q = lost.shape
    draw = np.random.default_rng([seed, resamples])
    slopes = []
    for _ in range(resamples):
        removals, trainings = draw.integers(0, q, q), draw.integers(0, r, r)
        x, y = predicted[removals], lost[trainings].mean(0)[removals]
        if (x**2).sum() > 0:
            slopes.append((x @ y) / (x @ x))
    mean = lost.mean(0)
    slope = interval(predicted @ mean / (predicted @ predicted), np.array(slopes))
    varied = q > 2 and predicted.std() > 0 and mean.std() > 0
    correlation = float(np.corrcoef(predicted, mean)[0, 1]) if varied else None
    return Calibration(slope, correlation)
