"""Figures with 95 % bootstrap intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the bounds of its interval."""

    value: float
    low: float
    high: float


def interval(value: float, resampled: NDArray[np.float64], samples: int, *, spent: int = 0) -> Interval:
    """The interval of a figure from its resamples.

    Percentiles of resamples are too narrow where there are few samples: their variance lacks
    n/(n − 1 − spent), and they are normal quantiles where Student's are due. Both bounds are moved out
    by as much.

    Args:
        value: the figure.
        resampled: the same of every resample, [b].
        samples: n, how many independent samples the figure is made of.
        spent: degrees of freedom that were regressed out of them before; n − 1 − spent is at least 1.
    """
    upper, left = (1 + LEVEL) / 2, samples - 1 - spent
    wider = t.ppf(upper, left) / norm.ppf(upper) * np.sqrt(samples / left)
    low, high = np.quantile(resampled, [1 - upper, upper])
    return Interval(
        float(value), float(value - (value - low) * wider), float(value + (high - value) * wider)
    )


def mean_interval(values: NDArray[np.float64], *, resamples: int, seed: int) -> Interval | None:
    """The mean of values [r, q], both of whose directions are samples; none for fewer than two of q."""
    r, q = values.shape
    if q < 2:
        return None
    draw = np.random.default_rng([seed, resamples])
    means = np.array(
        [values[draw.integers(0, r, r)][:, draw.integers(0, q, q)].mean() for _ in range(resamples)]
    )
    return interval(values.mean(), means, q)
