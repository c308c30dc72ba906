"""Do the signs and ranks that scores give hold for a training that they did not see?

Each training run in turn is held out: the others name the strongest rows of each target and say which
signs are stable, and the one held out is asked.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trak_steps.scoring.top import TopRows
from trak_steps.scoring.uncertainty import sign_is_stable, standard_error

Floats = NDArray[np.float64]
# The place of its first row, and the scores [m, r, t] of m runs, of each block of train rows.
Blocks = Callable[[], Iterator[tuple[int, Floats]]]
# Fewer runs leave no two to compare while one is held out.
FEWEST_RUNS = 3


@dataclass(frozen=True)
class HeldOut:
    """What became of the strongest pairs, over all targets and runs held out in turn.

    Attributes:
        signs_held: share of pairs whose sign the run held out shares.
        stable: share of pairs whose sign the others call stable.
        stable_signs_held: the first, among those; none where there is no such pair.
        unstable_signs_held: the first, among the rest; none where there is no such pair.
        top_shared: share of the others' strongest proponents that are the held-out run's own.
        pairs: how many were looked at.
    """

    signs_held: float
    stable: float
    stable_signs_held: float | None
    unstable_signs_held: float | None
    top_shared: float
    pairs: int


@dataclass
class _Pairs:
    """The strongest rows of each target by all runs but one, [t, top]."""

    place: NDArray[np.int64]
    score: Floats = field(init=False)
    error: Floats = field(init=False)
    held_out: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.score, self.error, self.held_out = (np.full(self.place.shape, np.nan) for _ in range(3))

    def take(self, start: int, scores: Floats, run: int) -> None:
        """Fill in what a block of rows, [m, r, t], has of them: by all runs but one, and by that one."""
        place = self.place
        target, rank = np.nonzero((place >= start) & (place < start + scores.shape[1]))
        found = scores[:, place[target, rank] - start, target]
        rest = np.delete(found, run, axis=0)
        self.score[target, rank] = rest.mean(0)
        self.error[target, rank] = standard_error(rest.std(0, ddof=1), len(rest))
        self.held_out[target, rank] = found[run]


def hold_out(blocks: Blocks, runs: int, targets: int, top: int) -> HeldOut:
    """Hold each run out in turn.

    Args:
        blocks: gives the scores by run, from the first row on, each time that it is called.
        runs: m, at least :data:`FEWEST_RUNS`.
        targets: t.
        top: how many proponents, and how many opponents, of each target to look at.
    """
    sides = (True, False)
    of_others = {
        (run, side): TopRows(targets, top, largest=side) for run in range(runs) for side in sides
    }
    of_itself = [TopRows(targets, top, largest=True) for _ in range(runs)]
    for start, scores in blocks():
        total = scores.sum(0)
        for run in range(runs):
            mean = ((total - scores[run]) / (runs - 1)).astype(np.float32)
            for side in sides:
                of_others[run, side].add(mean, start)
            of_itself[run].add(scores[run].astype(np.float32), start)
    pairs = {key: _Pairs(rows.result().place) for key, rows in of_others.items()}
    for start, scores in blocks():
        for (run, _), found in pairs.items():
            found.take(start, scores, run)
    shared = [
        np.isin(theirs, own).mean()
        for run in range(runs)
        for theirs, own in zip(pairs[run, True].place, of_itself[run].result().place, strict=True)
    ]
    score, error, held_out = (
        np.concatenate([getattr(found, name).ravel() for found in pairs.values()])
        for name in ("score", "error", "held_out")
    )
    held = np.sign(score) == np.sign(held_out)
    stable = sign_is_stable(score, error)
    return HeldOut(
        signs_held=float(held.mean()),
        stable=float(stable.mean()),
        stable_signs_held=_share(held[stable]),
        unstable_signs_held=_share(held[~stable]),
        top_shared=float(np.mean(shared)),
        pairs=len(score),
    )


def _share(held: NDArray[np.bool_]) -> float | None:
    return float(held.mean()) if len(held) else None
