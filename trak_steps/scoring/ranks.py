"""The ranks that listed rows might have, from a histogram of all rows.

A row may stand before another unless its interval, of so many standard errors to each side, ends where
the other's has not begun. So the ends nearer to the top are counted while scores stream by, in a
histogram for each target: of scores over their ``root``, about their root mean square, in steps of some
0.015 near zero and of 1 % to 1.5 % far from it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Steps in each doubling, and doublings to each side of zero.
STEPS, DOUBLINGS = 64, 8
BINS = 2 * STEPS * DOUBLINGS
# By how many bits a number's digits are cut to so many steps; and the bits of 1.
_CUT, _ONE = 23 - (STEPS.bit_length() - 1), 0x3F800000


def bins(values: Any, xp: Any) -> Any:
    """The bins of numbers in float32; a larger number has none before.

    By asinh: |x| + √(x² + 1) doubles with each doubling of a large x, and its digits are its logarithm.

    Args:
        values: of any shape, of NumPy or PyTorch.
        xp: that module.
    """
    size = values * values
    size += 1
    xp.sqrt(size, out=size)
    size += xp.abs(values)
    steps = size.view(xp.int32)
    steps -= _ONE
    steps >>= _CUT
    xp.clip(steps, None, BINS // 2 - 1, out=steps)
    return xp.where(values < 0, -1 - steps, steps) + BINS // 2


def relative(roots: Any, xp: Any) -> Any:
    """What scores are multiplied by before they are counted, [t] in float32."""
    return xp.where(roots > 0, 1 / xp.where(roots > 0, roots, 1), 0)


def rank_range(
    score: NDArray[np.float32],
    error: NDArray[np.floating],
    errors: float,
    counts: NDArray[np.int64],
    roots: NDArray[np.floating],
    *,
    largest: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best and the worst rank that listed rows might have, [t, top] each.

    The worst is rounded to the histogram's steps where rows that are not listed come in: it is never
    better than by counting pairs.

    Args:
        score, error: of the strongest rows of t targets, strongest first, [t, top].
        errors: of an interval, to each side.
        counts: of all rows for this side, [t, bins].
        roots: as they were counted by, [t].
        largest: whether rank 1 has the largest score; else the smallest.
    """
    sign = np.float32(1 if largest else -1)
    score, room = sign * score, np.float32(errors) * error.astype(np.float32)
    low, high = score - room, score + room
    # A row that surely stands before another has the stronger score, so it is listed, too.
    best = 1 + (low[:, None, :] > high[:, :, None]).sum(2)
    scale = relative(roots, np).astype(np.float32)[:, None]
    lows, highs = (bins(ends * scale, np) for ends in (low, high))
    from_there = counts[:, ::-1].cumsum(1)[:, ::-1]
    of_all = np.take_along_axis(from_there, lows.astype(np.int64), 1)
    # Those that are listed are compared one by one.
    counted = (highs[:, None, :] >= lows[:, :, None]).sum(2)
    worst = of_all - counted + (high[:, None, :] >= low[:, :, None]).sum(2)
    return best, np.maximum(worst, best)
