"""What is said of listed rows: whether their sign is stable, and what ranks they might have."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trak_steps.scoring.lists import Top
from trak_steps.scoring.ranks import rank_range
from trak_steps.scoring.uncertainty import sign_is_stable, standard_error

# Pairs of listed rows that are compared at once.
PAIRS = 2**22


def with_uncertainty(
    top: Top,
    counts: NDArray[np.int64] | None,
    roots: NDArray[np.floating],
    *,
    trainings: int,
    errors: float,
    largest: bool,
) -> dict[str, NDArray[Any]]:
    """The strongest rows of t targets: ``place``, ``score``, ``std``, ``sign_stable`` and two ranks.

    Of a single training neither signs nor ranks are known: nothing is stable, and ranks are 0.

    Args:
        top: with the standard deviations beside the scores, [t, top].
        counts: of all rows, for this side, [t, bins]; of a single training they may be none.
        roots: as they were counted by, [t].
        trainings: that scores are means over.
        errors: standard errors that a score has to be off zero for a stable sign.
        largest: proponents; else opponents.
    """
    score, std = top.score, top.more[0]
    best = worst = np.zeros(score.shape, np.int64)
    stable = best.astype(bool)
    if trainings > 1:
        assert counts is not None
        error = standard_error(std, trainings)
        stable = sign_is_stable(score, error, errors)
        at_once = max(1, PAIRS // score.shape[1] ** 2)
        spans = [slice(start, start + at_once) for start in range(0, len(score), at_once)]
        found = [
            rank_range(score[of], error[of], errors, counts[of], roots[of], largest=largest)
            for of in spans
        ]
        best, worst = (np.concatenate(of_spans) for of_spans in zip(*found, strict=True))
    return {
        "place": top.place,
        "score": score,
        "std": std,
        "sign_stable": stable,
        "rank_best": best,
        "rank_worst": worst,
    }
