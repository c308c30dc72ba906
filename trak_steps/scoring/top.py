"""The strongest proponents and opponents of each target, found while scores stream by."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.scoring.lists import NONE, Top, keys_of, merged, scores_of

# Rows that are looked at before the first of them are dropped.
FIRST_ROWS = 64


class TopRows:
    """Keeps the ``top`` largest (or smallest) scores of each target.

    Equal scores are ordered by the train row's place, so that the result does not depend on how the
    rows were cut into blocks. A row is looked at again only if it beats the last one of a list: of n
    rows in any order these are some top · log(n / top) for each target. They wait until they are as many
    as the lists hold, and are then sorted in.

    Args:
        targets: t.
        top: how many to keep.
        largest: proponents; else opponents.
    """

    def __init__(self, targets: int, top: int, *, largest: bool) -> None:
        self._largest, self._top = largest, top
        self._seen = 0
        self._keys = np.full((targets, 0), NONE)
        self._more: list[NDArray[Any]] = []
        self._limit: Tensor | None = None
        # What waits, in arrays that are made once: many small ones would lie between the blocks in
        # memory, and keep it from being used again.
        self._waiting: list[NDArray[Any]] = []
        self._count = 0

    def add(self, scores: Tensor, start: int, *more: Tensor) -> None:
        """Take the scores of the train rows from place ``start`` on; blocks come in order.

        Args:
            scores: [r, t] in float32.
            start: the first row's place, below 2³².
            more: what to keep beside the scores, [r, t] each; the same number of them in every call.
        """
        first = 0
        while first < len(scores):
            # Of the first rows few at a time, or all would wait.
            stop = min(len(scores), first + max(FIRST_ROWS, self._seen))
            self._look(*(values[first:stop] for values in (scores, *more)), start=start + first)
            self._seen += stop - first
            first = stop

    def _look(self, scores: Tensor, *more: Tensor, start: int) -> None:
        if self._limit is None:
            better = torch.ones_like(scores, dtype=torch.bool)
        else:
            better = scores > self._limit if self._largest else scores < self._limit
        row, target = better.nonzero(as_tuple=True)
        found = [values[row, target].cpu().numpy() for values in (scores, *more)]
        keys = keys_of(found[0], start + row.cpu().numpy(), largest=self._largest)
        self._wait([target.cpu().numpy(), keys, *found[1:]], scores.device)

    def _wait(self, found: list[NDArray[Any]], device: torch.device) -> None:
        """Put what was found to what waits; or sort all in, if it is too much."""
        if not self._waiting:
            room = max(1, len(self._keys) * self._top)
            self._waiting = [np.empty(room, values.dtype) for values in found]
        stop = self._count + len(found[0])
        if self._limit is None or stop > len(self._waiting[0]):
            waiting = [values[: self._count] for values in self._waiting]
            self._sort_in([np.concatenate(pair) for pair in zip(waiting, found, strict=True)], device)
            return
        for values, new in zip(self._waiting, found, strict=True):
            values[self._count : stop] = new
        self._count = stop

    def _sort_in(self, found: list[NDArray[Any]], device: torch.device) -> None:
        target, keys, *more = found
        self._count = 0
        self._keys, self._more = merged(self._keys, self._more, target, keys, more, self._top)
        if self._keys.shape[1] == self._top:
            last, _ = scores_of(self._keys[:, -1], largest=self._largest)
            self._limit = torch.from_numpy(last).to(device)

    def result(self) -> Top:
        """What is kept so far."""
        if self._count:
            device = torch.device("cpu") if self._limit is None else self._limit.device
            self._sort_in([values[: self._count] for values in self._waiting], device)
        score, place = scores_of(self._keys, largest=self._largest)
        return Top(place, score, tuple(self._more))
