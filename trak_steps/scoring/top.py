"""The strongest proponents and opponents of each target, found while scores stream by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Top:
    """For t targets, ``top`` train rows each, strongest first.

    Attributes:
        place: of the train row in the train set, [t, top].
        score: [t, top].
    """

    place: NDArray[np.int64]
    score: NDArray[np.float32]


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
        self._score = np.empty((targets, 0), np.float32)
        self._place = np.empty((targets, 0), np.int64)

    def add(self, scores: NDArray[np.float32], start: int) -> None:
        """Take the scores [r, t] of the train rows from place ``start`` on."""
        places = np.broadcast_to(np.arange(start, start + len(scores), dtype=np.int64), scores.T.shape)
        score = np.concatenate([self._score, scores.T], axis=1)
        place = np.concatenate([self._place, places], axis=1)
        # Rows come in order of place and the sort is stable, so ties keep the earlier place.
        order = np.argsort(self._sign * score, axis=1, kind="stable")[:, : self._top]
        self._score = np.take_along_axis(score, order, axis=1)
        self._place = np.take_along_axis(place, order, axis=1)

    def result(self) -> Top:
        """What is kept so far."""
        return Top(self._place, self._score)
