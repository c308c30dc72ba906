"""Random subsets of the train set. Pure functions of numbers."""

import numpy as np
from numpy.typing import NDArray

# Keeps these draws apart from any other that a run's seed makes.
STREAM = 0x5B5E7


def random_subsets(n: int, count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which rows each subset keeps, [count, n]: a share of them, drawn without replacement.

    A subset depends on its number alone, so that asking for more leaves the first ones as they are.
    """
    size = subset_size(n, share)
    kept = np.zeros((count, n), bool)
    for subset in range(count):
        draw = np.random.Generator(np.random.Philox(key=[seed, STREAM], counter=[0, 0, 0, subset]))
        kept[subset, draw.permutation(n)[:size]] = True
    return kept


def subset_size(n: int, share: float) -> int:
    """Rows of a subset: at least one, and never all."""
    return min(max(1, round(share * n)), n - 1)
