"""The unit of scores: what adds up, over all train rows, to a target's margin.

The sum of a target's scores over the train set goes with the margin that the models give the target, in
as far as scores explain it. So one factor for a run, found without retraining, makes a score the part of
a margin that comes from a train row. What leaving the row out would do is another quantity: without it,
training takes another course.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from trak_steps.kernel.blocks import SOLVED_AT_ONCE


def sums_of_scores(solved: Sequence[Tensor], totals: Sequence[Tensor]) -> Tensor:
    """Each checkpoint's own scores of t targets, summed over all train rows, [m, t] in float64.

    Args:
        solved: (K_m + ridge)⁻¹ φ_m(z) of the targets, [t, k] each.
        totals: Σ_i φ_m(x_i), weighted as the scores are, [k] each.
    """
    found = []
    for of_targets, total in zip(solved, totals, strict=True):
        # Some at a time are held in float64.
        parts = torch.split(of_targets, SOLVED_AT_ONCE)
        found.append(torch.cat([part.double() @ total.to(part.device) for part in parts]))
    return torch.stack(found)


def means_of_trainings(values: Tensor, trainings: Sequence[str]) -> Tensor:
    """The mean over each training's checkpoints, [m, t] to [trainings, t].

    Args:
        values: of m checkpoints.
        trainings: the one that each is of.
    """
    places: dict[str, list[int]] = {}
    for place, training in enumerate(trainings):
        places.setdefault(training, []).append(place)
    return torch.stack([values[of].mean(0) for of in places.values()])


def shares_of_trainings(trainings: Sequence[str]) -> list[float]:
    """What each checkpoint counts for, so that trainings count alike: 1 in all.

    Args:
        trainings: the one that each checkpoint is of.
    """
    counts = Counter(trainings)
    return [1 / (len(counts) * counts[training]) for training in trainings]


def unlearned_margin(classes: int) -> float:
    """The margin of a model that knows nothing and gives all classes alike: −log(c − 1)."""
    return -math.log(classes - 1) if classes > 2 else 0.0


def scale_to_margins(sums: Tensor, margins: Tensor) -> float | None:
    """The factor by which sums of scores [q] come closest to margins [q], by least squares.

    None where the two do not go together, so that no factor makes the one out of the other.
    """
    together, own = float(sums @ margins), float(sums @ sums)
    scale = together / own if own > 0 else 0.0
    return scale if math.isfinite(scale) and scale > 0 else None
