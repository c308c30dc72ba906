"""Do a target's scores add up to its margin?

A check of the scores that needs no retraining. Features that are spoilt, or a ridge that is far too
small, show in it; which of two sound ways to score is better does not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Fewer targets say nothing of a correlation.
FEWEST_TARGETS = 10


@dataclass(frozen=True)
class Explained:
    """Margins of targets, held against the sums of their scores over all train rows.

    Attributes:
        correlation: over targets, of both sides' means over trainings.
        slope: of margins, less that before anything was learnt, on sums, through zero: 1 where they are
            as large as each other.
        correlation_between_trainings: of one training's sums and another's margins, averaged over
            pairs; none of a single training.
    """

    correlation: float
    slope: float
    correlation_between_trainings: float | None


def explained(sums: Array, margins: Array, base: float) -> Explained | None:
    """Hold sums of scores against margins.

    Args:
        sums: by each training's scores, [r, t].
        margins: that the end of each training gives, [r, t].
        base: the margin before anything was learnt.

    Returns:
        None for fewer than :data:`FEWEST_TARGETS` targets, or where one side does not vary.
    """
    r, t = sums.shape
    together = sums.mean(0), margins.mean(0) - base
    if t < FEWEST_TARGETS or not all(values.std() > 0 for values in (*sums, *margins, *together)):
        return None
    others = [_correlation(sums[a], margins[b]) for a in range(r) for b in range(r) if a != b]
    return Explained(
        correlation=_correlation(*together),
        slope=float(together[0] @ together[1] / (together[0] @ together[0])),
        correlation_between_trainings=float(np.mean(others)) if others else None,
    )


def _correlation(first: Array, second: Array) -> float:
    return float(np.corrcoef(first, second)[0, 1])
