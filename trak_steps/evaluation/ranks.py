"""Rank correlations, columns at once."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.floating]


def standard_ranks(values: Floats) -> NDArray[np.float64]:
    """Each column's ranks [s, t], centred and of unit length; a constant column is zero."""
    return standardised(rankdata(values, axis=0))


def standardised(values: Floats) -> NDArray[np.float64]:
    """Each column [s, t], centred and of unit length; a constant column is zero."""
    centred = values - values.mean(0)
    length = np.linalg.norm(centred, axis=0)
    # What is left of a constant column is rounding.
    real = length > 1e-9 * np.sqrt(len(values)) * np.abs(values).max(0, initial=0)
    found = np.zeros_like(centred, dtype=np.float64)
    np.divide(centred, length, out=found, where=real)
    return found


def spearman(first: Floats, second: Floats) -> NDArray[np.float64]:
    """Spearman's correlation of the columns of two arrays [s, t]: [t], ties by their mean rank.

    Zero for a column that is constant: it orders nothing.
    """
    found: NDArray[np.float64] = np.einsum("st,st->t", standard_ranks(first), standard_ranks(second))
    return found
