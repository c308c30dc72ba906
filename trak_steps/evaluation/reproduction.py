"""Whether models retrained by a recipe are as good as those that it is said to be of."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

LEVEL = 0.95


@dataclass(frozen=True)
class Reproduction:
    """The accuracies of imported and of retrained models on the same targets.

    Attributes:
        imported: of each, [m].
        retrained: of each, [r].
        difference: of the means, retrained less imported.
        allowed: how far apart the means of so many models of one recipe are, nineteen times of twenty.
    """

    imported: list[float]
    retrained: list[float]
    difference: float
    allowed: float

    @property
    def succeeded(self) -> bool:
        """Whether the two are no further apart than seeds set models of one recipe."""
        return abs(self.difference) <= self.allowed


def reproduction(imported: NDArray[np.bool_], retrained: NDArray[np.bool_]) -> Reproduction:
    """Hold the one against the other.

    Args:
        imported: whether each of m models is right about each of t targets, [m, t].
        retrained: the same of r models, trained on all rows with other seeds, [r, t]; at least two.
    """
    groups = [imported.astype(np.float64), retrained.astype(np.float64)]
    counts = [len(group) for group in groups]
    left = sum(counts) - 2
    # A model's accuracy varies with its seed: as models of a group do, or, since those are few, as they
    # differ target by target, as if targets went each their own way. The larger of the two.
    pooled = sum(((group.mean(1) - group.mean()) ** 2).sum() for group in groups) / left
    by_target = sum(((group - group.mean(0)) ** 2).sum() for group in groups) / left
    variance = max(float(pooled), float(by_target) / groups[0].shape[1] ** 2)
    allowed = student.ppf((1 + LEVEL) / 2, left) * np.sqrt(variance * sum(1 / m for m in counts))
    first, second = ([float(value) for value in group.mean(1)] for group in groups)
    difference = float(np.mean(second) - np.mean(first))
    return Reproduction(first, second, difference, float(allowed))
