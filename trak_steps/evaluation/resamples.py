"""Resamples of a plan's subsets and of targets, from which all intervals of an LDS are made."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Resamples, times targets, that are worked on together.
TOGETHER = 2**20


@dataclass(frozen=True)
class Resamples:
    """How often each of b resamples has each subset and each target: both are drawn with replacement.

    Sums over targets are linear, so some targets after the others give what all at once would.

    Attributes:
        subsets: the share of a resample that each subset is, [b, s].
        targets: how often a resample has a target, [b, t].
    """

    subsets: Array
    targets: NDArray[np.uint16]

    @classmethod
    def draw(cls, s: int, t: int, resamples: int, seed: int) -> Self:
        """Draw them: ``resamples`` of s subsets and t targets."""
        draw = np.random.default_rng([seed, resamples])
        subsets = draw.multinomial(s, np.full(s, 1 / s), resamples) / s
        # One by one, for a whole array of them would be four times as large.
        targets = np.empty((resamples, t), np.uint16)
        shares = np.full(t, 1 / t)
        for counts in targets:
            counts[:] = draw.multinomial(t, shares)
        return cls(subsets, targets)

    def correlations(self, first: Array, second: Array, start: int) -> Array:
        """The sum over targets of the correlation of columns, over t, in each resample: [b].

        A column that is constant in a resample orders nothing, and counts as zero.

        Args:
            first, second: [s, g], of g targets.
            start: the place of the first of them.
        """
        return self._sums(first, second, start, of_correlations=True)[0]

    def covariances(self, first: Array, second: Array, start: int) -> tuple[Array, Array]:
        """The same of the covariances of columns, and of the variances of the first's: [b] each."""
        return self._sums(first, second, start, of_correlations=False)

    def _sums(
        self, first: Array, second: Array, start: int, *, of_correlations: bool
    ) -> tuple[Array, Array]:
        t, g = self.targets.shape[1], first.shape[1]
        found = np.empty((2, len(self.subsets)))
        rows = max(1, TOGETHER // g)
        for at in range(0, len(self.subsets), rows):
            part = slice(at, at + rows)
            subsets, times = self.subsets[part], self.targets[part, start : start + g] / t
            means = subsets @ first, subsets @ second
            within = subsets @ (first * second) - means[0] * means[1]
            variance = (subsets @ first**2 - means[0] ** 2).clip(min=0)
            if of_correlations:
                other = (subsets @ second**2 - means[1] ** 2).clip(min=0)
                within = _over(within, np.sqrt(variance * other))
            found[0, part] = np.einsum("bt,bt->b", times, within)
            found[1, part] = np.einsum("bt,bt->b", times, variance)
        return found[0], found[1]


def _over(values: Array, by: Array) -> Array:
    """A quotient that is zero where a column is constant, but for rounding, and orders nothing."""
    return np.divide(values, by, out=np.zeros_like(values), where=by > 1e-9)
