"""Lists of the strongest train rows of each target, put together from parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below every key: a place in a list that is not taken.
NONE = np.iinfo(np.int64).min
# Places are below this.
PLACES = 2**32
# Of a target, sorted in at once.
AT_ONCE = 64


@dataclass(frozen=True)
class Top:
    """For t targets, ``top`` train rows each, strongest first.

    Attributes:
        place: of the train row in the train set, [t, top].
        score: [t, top].
        more: what else was given of these rows, [t, top] each.
    """

    place: NDArray[np.int64]
    score: NDArray[np.float32]
    more: tuple[NDArray[Any], ...] = ()


def together(parts: Sequence[Top], top: int, *, largest: bool) -> Top:
    """The strongest rows of all parts, each of other rows for the same targets.

    Args:
        parts: lists, [t, top] each.
        top: how many to keep.
        largest: proponents; else opponents.
    """
    t = len(parts[0].place)
    kept, more = np.full((t, 0), NONE), list[NDArray[Any]]()
    for part in parts:
        target = np.repeat(np.arange(t), part.place.shape[1])
        keys = keys_of(part.score.ravel(), part.place.ravel(), largest=largest)
        kept, more = merged(kept, more, target, keys, [of.ravel() for of in part.more], top)
    score, place = scores_of(kept, largest=largest)
    return Top(place, score, tuple(more))


def merged(
    kept: NDArray[np.int64],
    more: Sequence[NDArray[Any]],
    target: NDArray[np.int64],
    keys: NDArray[np.int64],
    beside: Sequence[NDArray[Any]],
    top: int,
) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """The largest keys of each target, largest first, and what is known of each beside it.

    Args:
        kept: keys, [t, c].
        more: what is known of these, [t, c] each; of none, if nothing was kept yet.
        target, keys: of others, in any order, [e].
        beside: what is known of these, [e] each.
        top: how many to keep.
    """
    order = np.argsort(target, kind="stable")
    counts = np.bincount(target, minlength=len(kept))
    begin = np.cumsum(counts) - counts
    more = list(more) or [np.empty(kept.shape, of.dtype) for of in beside]
    width = max(top, AT_ONCE)
    # So many of each target at a time: a target with very many makes no wide array for all.
    for first in range(0, int(counts.max(initial=0)), width):
        some = np.flatnonzero(counts > first)
        column = np.arange(min(width, int(counts.max()) - first))
        there = column < (counts[some] - first)[:, None]
        entry = order[np.where(there, begin[some, None] + first + column, 0)]
        kept, more = _widened(kept, more, top)
        both = np.concatenate([kept[some], np.where(there, keys[entry], NONE)], 1)
        best = np.argsort(both, axis=1)[:, ::-1][:, :top]
        kept[some] = np.take_along_axis(both, best, 1)
        for values, of in zip(more, beside, strict=True):
            values[some] = np.take_along_axis(np.concatenate([values[some], of[entry]], 1), best, 1)
    used = int((kept != NONE).sum(1).max(initial=0))
    return kept[:, :used], [values[:, :used] for values in more]


def _widened(
    kept: NDArray[np.int64], more: list[NDArray[Any]], top: int
) -> tuple[NDArray[np.int64], list[NDArray[Any]]]:
    """Copies of lists that have places for ``top``."""
    free = ((0, 0), (0, top - kept.shape[1]))
    return np.pad(kept, free, constant_values=NONE), [np.pad(values, free) for values in more]


def keys_of(score: NDArray[np.float32], place: NDArray[np.int64], *, largest: bool) -> NDArray[np.int64]:
    """Whole numbers in the order of scores, strongest largest, and where these are equal of places."""
    # No zero below zero: the two are equal.
    bits = (score + np.float32(0)).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    found: NDArray[np.int64] = (ordered if largest else -ordered) * PLACES + (PLACES - 1 - place)
    return found


def scores_of(
    keys: NDArray[np.int64], *, largest: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The scores and places that make these keys."""
    ordered, place = keys // PLACES, PLACES - 1 - keys % PLACES
    ordered = ordered if largest else -ordered
    bits = np.where(ordered < 0, -ordered | -0x80000000, ordered)
    return bits.astype(np.int32).view(np.float32), place
