"""Whether a score's sign and rank would come out the same from other trainings."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
# A score within so many standard errors of zero may as well have the other sign.
ERRORS = 2.0


def standard_error(std: Floats, trainings: int) -> Floats:
    """The standard error of a mean over trainings, from their standard deviation.

    The checkpoints of one training say nothing of what another would, so trainings are what is counted
    and what ``std`` is of. Of a single training the spread of its checkpoints has to do; it says less
    than it seems to.
    """
    error: Floats = std / np.sqrt(trainings)
    return error


def sign_is_stable(score: Floats, error: Floats) -> NDArray[np.bool_]:
    """Whether a score is further from zero than its error allows; never where there is no error."""
    stable: NDArray[np.bool_] = np.abs(score) > ERRORS * error
    return stable


class RankRange:
    """The ranks that listed rows might have, counted while scores stream by.

    A row surely stands before another if their intervals, of :data:`ERRORS` standard errors to each
    side, do not meet.

    Args:
        score: of the listed rows of t targets, [t, top].
        error: [t, top].
        largest: whether rank 1 has the largest score; else the smallest.
    """

    def __init__(self, score: Floats, error: Floats, *, largest: bool) -> None:
        self._sign = 1.0 if largest else -1.0
        self._low = self._sign * score - ERRORS * error
        self._high = self._sign * score + ERRORS * error
        self._before = np.zeros(score.shape, np.int64)
        self._perhaps = np.zeros(score.shape, np.int64)

    def add(self, scores: Floats, errors: Floats) -> None:
        """Count the rows of a block, [r, t] each."""
        low = np.sort(self._sign * scores - ERRORS * errors, axis=0)
        high = np.sort(self._sign * scores + ERRORS * errors, axis=0)
        r = len(scores)
        for target in range(scores.shape[1]):
            surely = np.searchsorted(low[:, target], self._high[target], side="right")
            self._before[target] += r - surely
            never = np.searchsorted(high[:, target], self._low[target], side="left")
            self._perhaps[target] += r - never

    def result(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The best and the worst rank of each listed row, [t, top] each."""
        # Of the rows that may stand before one, the row itself is one.
        return self._before + 1, np.maximum(self._perhaps, self._before + 1)
