"""What is found of targets while the scores of all train rows stream by."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.kernel.blocks import SCORED_AT_ONCE
from trak_steps.scoring.lists import Top
from trak_steps.scoring.ranks import BINS, CUT, FIRST, OF_A_SIDE, SIZE, relative
from trak_steps.scoring.scores import ScoreBlock, Scorer
from trak_steps.scoring.solve import Solved
from trak_steps.scoring.top import TopRows

SIDES = ("proponent", "opponent")


class RankCounts:
    """Counts train rows by the ranks that they might have: see :mod:`~.scoring.ranks`.

    Args:
        roots: what scores are measured by, [t].
        errors: of an interval, to each side.
    """

    def __init__(self, roots: Tensor, errors: float) -> None:
        self._relative = relative(roots, torch).float()
        self._errors = errors
        places = torch.arange(len(roots), dtype=torch.int32, device=roots.device)
        self._first = BINS * places + OF_A_SIDE
        self._ends = torch.empty(0, len(roots), device=roots.device)
        self._counts = torch.zeros(2, len(roots) * BINS, dtype=torch.int64, device=roots.device)

    def add(self, scores: Tensor, errors: Tensor) -> None:
        """Count the rows of a block, by their scores and standard errors [r, t]."""
        if len(self._ends) < len(scores):
            self._ends = torch.empty_like(scores)
            self._signs = torch.empty_like(scores, dtype=torch.int32)
        ends, signs = (array[: len(scores)] for array in (self._ends, self._signs))
        for sign, counts in zip((1.0, -1.0), self._counts, strict=True):
            torch.add(scores, errors, alpha=sign * self._errors, out=ends)
            # As :func:`~.ranks.bins` does, in place, which takes a third of the time.
            bits = ends.mul_(sign * self._relative).view(torch.int32)
            torch.bitwise_right_shift(bits, 31, out=signs)
            bits.bitwise_and_(SIZE).bitwise_right_shift_(CUT).sub_(FIRST).clamp_(0, OF_A_SIDE - 1)
            bits.bitwise_xor_(signs).add_(self._first)
            counts += torch.bincount(bits.flatten(), minlength=len(counts))

    def result(self) -> NDArray[np.int64]:
        """Rows by the upper ends of their intervals, then by the lower ones with their sign turned.

        [2, t, bins].
        """
        return self._counts.view(2, -1, BINS).cpu().numpy()


class Stream:
    """Lists the strongest rows of t targets, and counts rows by the ranks that they might have.

    Args:
        solved: the targets.
        trainings: the one that each checkpoint is of.
        top: rows of a list.
        errors: standard errors to each side of a score that it might be off, as for its rank; if they
            are not known they are infinite, and no ranks are counted.
    """

    def __init__(self, solved: Solved, trainings: Sequence[str], top: int, errors: float) -> None:
        self._scorer = Scorer(solved.weights, trainings)
        self._trainings = len(set(trainings))
        t = len(solved.roots)
        self._parts = [
            slice(start, min(start + SCORED_AT_ONCE, t)) for start in range(0, t, SCORED_AT_ONCE)
        ]
        self._lists = [
            {side: TopRows(part.stop - part.start, top, largest=side == SIDES[0]) for side in SIDES}
            for part in self._parts
        ]
        known = np.isfinite(errors)
        self._ranks = [RankCounts(solved.roots[part], errors) if known else None for part in self._parts]

    def add(
        self, features: Sequence[Tensor], weights: Tensor | None, start: int
    ) -> Iterator[tuple[slice, ScoreBlock]]:
        """Take a block of train rows; gives its scores, for some targets at a time.

        What it gives is written over with the next.

        Args:
            features: by each of m checkpoints, [r, k] each.
            weights: of each checkpoint's part in a row's score, [m, r]; none if all are 1.
            start: the first row's place.
        """
        for part, lists, ranks in zip(self._parts, self._lists, self._ranks, strict=True):
            block = self._scorer(features, weights, part)
            for rows in lists.values():
                rows.add(block.scores, start, block.std)
            yield part, block
            if ranks is not None:
                ranks.add(block.scores, block.std.mul_(1 / self._trainings**0.5))

    def top(self, side: str) -> Top:
        """The strongest rows of a side, with their standard deviation beside their scores, [t, top]."""
        found = [lists[side].result() for lists in self._lists]
        return Top(
            np.concatenate([of.place for of in found]),
            np.concatenate([of.score for of in found]),
            (np.concatenate([of.more[0] for of in found]),),
        )

    def counts(self) -> NDArray[np.int64] | None:
        """See :meth:`RankCounts.result`; none where no ranks are counted."""
        found = [ranks.result() for ranks in self._ranks if ranks is not None]
        return np.concatenate(found, axis=1) if found else None
