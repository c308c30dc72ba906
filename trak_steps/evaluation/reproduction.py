"""Whether models retrained by a recipe are like those that it is said to be of.

Two trainings by one recipe, with other seeds, give targets other margins. If retrained models are no
further from the imported ones than from each other, and as sure, the recipe may be theirs.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

# Of trainings that differ in nothing but their seed: 0.87 to 1.21 times as far apart, and up to 1.97
# times as sure. Held against their state after a quarter of the steps: 1.9 to 29, and 2.2 to 100, one or
# the other (docs/evaluation.md).
FURTHER, SURER = 1.25, 2.0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reproduction:
    """How imported and retrained models compare, on the same targets.

    Attributes:
        apart: how far retrained models are from imported ones, in root mean square of the differences
            between margins, over how far they are from each other.
        sure: the root mean square of the retrained models' margins over that of the imported ones'.
    """

    apart: float
    sure: float

    @property
    def succeeded(self) -> bool:
        """Whether seeds set models of one recipe as far apart."""
        return self.apart <= FURTHER and 1 / SURER <= self.sure <= SURER


def reproduction(imported: Array, retrained: Array) -> Reproduction:
    """Hold the one against the other.

    Args:
        imported: the margins that m models give t targets, [m, t].
        retrained: the same of r models, trained on all rows with other seeds, [r, t]; at least two.
    """
    within = np.mean([_size(a - b) for a, b in combinations(retrained, 2)])
    between = np.mean([_size(a - b) for a in imported for b in retrained])
    sizes = [np.mean([_size(of) for of in group]) for group in (retrained, imported)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return Reproduction(float(between / within), float(sizes[0] / sizes[1]))


def _size(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean()))
