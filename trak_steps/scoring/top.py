"""The strongest proponents and opponents of each target, found while scores stream by."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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


class TopRows:
    """Keeps the ``top`` largest (or smallest) scores of each target.

    Equal scores are ordered by the train row's place, so that the result does not depend on how the
    rows were cut into blocks.

    Args:
        targets: t.
        top: how many to keep.
        largest: proponents; else opponents.
    """

    def __init__(self, targets: int, top: int, *, largest: bool) -> None:
        self._sign = -1.0 if largest else 1.0
        self._top = top
        self._kept: list[NDArray[Any]] = [
            np.empty((targets, 0), np.float32),
            np.empty((targets, 0), np.int64),
        ]

    def add(self, scores: NDArray[np.float32], start: int, *more: NDArray[Any]) -> None:
        """Take the scores of the train rows from place ``start`` on.

        Args:
            scores: [r, t].
            start: the first row's place.
            more: what to keep beside the scores, [r, t] each; the same number of them in every call.
        """
        places = np.broadcast_to(np.arange(start, start + len(scores), dtype=np.int64), scores.T.shape)
        given: list[NDArray[Any]] = [scores.T, places, *(values.T for values in more)]
        kept = [*self._kept, *(values[:, :0] for values in given[len(self._kept) :])]
        parts = [np.concatenate(pair, axis=1) for pair in zip(kept, given, strict=True)]
        # Rows come in order of place and the sort is stable, so ties keep the earlier place.
        order = np.argsort(self._sign * parts[0], axis=1, kind="stable")[:, : self._top]
        self._kept = [np.take_along_axis(values, order, axis=1) for values in parts]

    def result(self) -> Top:
        """What is kept so far."""
        score, place, *more = self._kept
        return Top(place, score, tuple(more))
