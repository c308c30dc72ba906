"""Random subsets of the train set. Pure functions of numbers."""

import numpy as np
from numpy.typing import NDArray

# Keep these draws apart from each other, and from any other that a run's seed makes.
STREAM = 0x5B5E7
REMOVAL_STREAM = 0x4E307
# What a model is trained without: a target's proponents, as many random rows, as many of its nearest
# rows, or nothing.
PROPONENTS, RANDOM, NEAREST, NOTHING = "proponents", "random", "nearest", "nothing"


def random_subsets(n: int, count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Which rows each subset keeps, [count, n]: a share of them, drawn without replacement.

    A subset depends on its number alone, so that asking for more leaves the first ones as they are.
    """
    size = subset_size(n, share)
    kept = np.zeros((count, n), bool)
    for subset in range(count):
        kept[subset, _drawn(n, size, seed, STREAM, subset)] = True
    return kept


def random_rows(n: int, count: int, seed: int, target: int) -> NDArray[np.int64]:
    """Rows to leave out for a target beside those that scores name, [count].

    They depend on the target's number alone, so that asking for more targets leaves the first ones'
    rows as they are.
    """
    return _drawn(n, count, seed, REMOVAL_STREAM, target)


def _drawn(n: int, count: int, seed: int, stream: int, number: int) -> NDArray[np.int64]:
    """Some of n rows, without replacement: the draw of this number, [count]."""
    draw = np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, number]))
    return draw.permutation(n)[:count]


def subset_size(n: int, share: float) -> int:
    """Rows of a subset: at least one, and never all."""
    return min(max(1, round(share * n)), n - 1)
