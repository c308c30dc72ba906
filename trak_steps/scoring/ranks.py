"""The ranks that listed rows might have, from a histogram of all rows.

A row may stand before another unless its interval, of so many standard errors to each side, ends where
the other's has not begun. So the ends nearer to the top are counted while scores stream by, in a
histogram for each target: of scores over their ``root``, about their root mean square, in steps of 1 %
to 1.6 %.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Steps in each doubling, of sizes from 1/32 to 64 to each side of zero.
STEPS, SMALLEST, LARGEST = 64, -5, 6
OF_A_SIDE = STEPS * (LARGEST - SMALLEST)
BINS = 2 * OF_A_SIDE
# Of a number in float32: the bits without its sign, and by how many they are cut to so many steps.
SIZE, CUT = 0x7FFFFFFF, 23 - (STEPS.bit_length() - 1)
FIRST = (127 + SMALLEST) * STEPS


def bins(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bins of numbers; of two, the larger has none before the other's.

    A number's exponent and first digits, as its bits have them, are its logarithm in steps. For a
    negative one the bins go on down, −1 − steps, whose bits are the steps' turned over.
    """
    bits = values.view(np.int32)
    steps = (((bits & SIZE) >> CUT) - FIRST).clip(0, OF_A_SIDE - 1)
    found: NDArray[np.int32] = (steps ^ (bits >> 31)) + OF_A_SIDE
    return found


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
    lows, highs = (bins(ends * scale) for ends in (low, high))
    from_there = counts[:, ::-1].cumsum(1)[:, ::-1]
    of_all = np.take_along_axis(from_there, lows.astype(np.int64), 1)
    # Those that are listed are compared one by one.
    counted = (highs[:, None, :] >= lows[:, :, None]).sum(2)
    worst = of_all - counted + (high[:, None, :] >= low[:, :, None]).sum(2)
    return best, np.maximum(worst, best)
