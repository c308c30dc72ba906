"""Figures with 95 % bootstrap intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval."""

    value: float
    low: float
    high: float


def interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """The percentile interval of a figure's resamples [b]."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def mean_interval(values: NDArray[np.float64], *, resamples: int, seed: int) -> Interval:
    """The mean of values [r, q], both of whose directions are samples."""
    r, q = values.shape
    draw = np.random.default_rng([seed, resamples])
    means = np.array(
        [values[draw.integers(0, r, r)][:, draw.integers(0, q, q)].mean() for _ in range(resamples)]
    )
    return interval(values.mean(), means)
