"""Whether a score's sign and rank would come out the same from other trainings."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
# The share of what chance lists that may be called stable.
FALSE = 0.05


def standard_error(std: Floats, trainings: int) -> Floats:
    """The standard error of a mean over trainings, from their standard deviation.

    The checkpoints of one training say nothing of what another would, so trainings are what is counted
    and what ``std`` is of.
    """
    error: Floats = std / np.sqrt(trainings)
    return error


def students(trainings: int) -> float:
    """How many standard errors a score has to be off zero, by Student's two-sided quantile.

    Of a single training nothing is known of others: infinite.
    """
    # What ranks needs no quantile, and scipy takes long to import.
    from scipy.special import stdtrit

    return float(stdtrit(trainings - 1, 1 - FALSE / 2)) if trainings > 1 else np.inf


def sign_is_stable(score: Floats, error: Floats, errors: float) -> NDArray[np.bool_]:
    """Whether a score is more than so many errors off zero; never where there is no error."""
    # Not a product: no error times an infinite threshold is no number.
    with np.errstate(divide="ignore", invalid="ignore"):
        stable: NDArray[np.bool_] = np.abs(score) / error > errors
    return stable


@dataclass(frozen=True)
class StableSigns:
    """When the sign of a *listed* score is called stable.

    A list has the largest of many scores, which chance makes large, too. What chance alone would list is
    found by shuffling each training's scores over the rows: then trainings share nothing but the rows'
    sizes.

    Attributes:
        errors: how many standard errors the score has to be off zero: Student's quantile, or more, so
            that at most :data:`FALSE` of what chance lists are called stable.
        by_chance: the share of what chance lists that Student's quantile alone would call stable.
    """

    errors: float
    by_chance: float


def stable_signs(off: Floats, trainings: int) -> StableSigns:
    """From the errors that the scores which chance lists are off zero.

    Args:
        off: of any shape.
        trainings: that the scores are over; at least 2.
    """
    finite = off[np.isfinite(off)]
    if not len(finite):
        return StableSigns(students(trainings), 0.0)
    least = students(trainings)
    return StableSigns(max(least, float(np.quantile(finite, 1 - FALSE))), float((finite > least).mean()))
