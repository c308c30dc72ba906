"""What is found of targets while the scores of all train rows stream by."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.kernel.blocks import IN_WORK, SCORED_AT_ONCE
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
        errors: of an interval, to each side, in units of the errors that are given.
    """

    def __init__(self, roots: Tensor, errors: float) -> None:
        self._relative = relative(roots, torch).float()
        self._errors = errors
        places = torch.arange(len(roots), dtype=torch.int32, device=roots.device)
        self._first = BINS * places + OF_A_SIDE
        self._counts = torch.zeros(2, len(roots) * BINS, dtype=torch.int64, device=roots.device)

    def add(self, scores: Tensor, errors: Tensor, work: Tensor | None = None) -> None:
        """Count the rows of a block.

        Args:
            scores: [r, t].
            errors: of them, [r, t].
            work: of the same shape and type, to work in.
        """
        ends = torch.empty_like(scores) if work is None else work
        signs = torch.empty_like(scores, dtype=torch.int32)
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

    Some targets go together, so that what is made of them stays near the processor; and as many groups
    at once as there are threads, each on one of them: little of what is done has two threads' work.

    Args:
        solved: the targets.
        trainings: the one that each checkpoint is of.
        top: rows of a list.
        errors: standard errors to each side of a score that it might be off, as for its rank; if they
            are not known they are infinite, and no ranks are counted.
    """

    def __init__(self, solved: Solved, trainings: Sequence[str], top: int, errors: float) -> None:
        t, count = len(solved.roots), len(set(trainings))
        on_cpu = solved.roots.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 1
        size = min(SCORED_AT_ONCE, -(-min(t, IN_WORK) // threads))
        spans = [slice(start, min(start + size, t)) for start in range(0, t, size)]
        # Of a standard deviation over trainings, for the error is that of their mean.
        times = errors / count**0.5
        self._groups = [_Group(solved.roots[span], span, top, times) for span in spans]
        # One for each thread.
        self._scorers = [Scorer(solved.weights, trainings) for _ in range(threads)]
        self._pool = None
        if threads > 1 and len(spans) > 1:
            self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def add(
        self, features: Sequence[Tensor], weights: Tensor | None, start: int
    ) -> Iterator[tuple[slice, ScoreBlock]]:
        """Take a block of train rows; gives its scores, for some targets at a time.

        What it gives is written over with the next block.

        Args:
            features: by each of m checkpoints, [r, k] each.
            weights: of each checkpoint's part in a row's score, [m, r]; none if all are 1.
            start: the first row's place.
        """
        if self._pool is None:
            for group in self._groups:
                yield group.targets, group.add(self._scorers[0], features, weights, start)
            return
        for first in range(0, len(self._groups), len(self._scorers)):
            # As many as can be held at once.
            pairs = list(zip(self._groups[first:], self._scorers, strict=False))
            found = [
                self._pool.submit(group.add, scorer, features, weights, start) for group, scorer in pairs
            ]
            for (group, _), block in zip(pairs, found, strict=True):
                yield group.targets, block.result()

    def top(self, side: str) -> Top:
        """The strongest rows of a side, with their standard deviation beside their scores, [t, top]."""
        found = [group.lists[side].result() for group in self._groups]
        return Top(
            np.concatenate([of.place for of in found]),
            np.concatenate([of.score for of in found]),
            (np.concatenate([of.more[0] for of in found]),),
        )

    def counts(self) -> NDArray[np.int64] | None:
        """See :meth:`RankCounts.result`; none where no ranks are counted."""
        found = [group.ranks.result() for group in self._groups if group.ranks is not None]
        return np.concatenate(found, axis=1) if found else None


class _Group:
    """Some targets of a stream, with all that is found of them."""

    def __init__(self, roots: Tensor, targets: slice, top: int, errors: float) -> None:
        self.targets = targets
        self.lists = {side: TopRows(len(roots), top, largest=side == SIDES[0]) for side in SIDES}
        self.ranks = RankCounts(roots, errors) if np.isfinite(errors) else None

    def add(
        self, scorer: Scorer, features: Sequence[Tensor], weights: Tensor | None, start: int
    ) -> ScoreBlock:
        block = scorer(features, weights, self.targets)
        for rows in self.lists.values():
            rows.add(block.scores, start, block.std)
        if self.ranks is not None:
            self.ranks.add(block.scores, block.std, scorer.work(self.targets, len(block.scores)))
        return block
