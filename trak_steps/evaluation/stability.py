"""Do the signs and ranks that scores give hold for a training that they did not see?

Each training in turn is held out: the others name the strongest rows of each target and say which
signs are stable, and the one held out is asked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trak_steps.scoring.top import TopRows
from trak_steps.scoring.uncertainty import sign_is_stable, standard_error, students

Floats = NDArray[np.float64]
# The place of its first row, and the scores [m, r, t] of m trainings, of each block of train rows.
Blocks = Callable[[], Iterator[tuple[int, Tensor]]]
# Fewer trainings leave no two to compare while one is held out.
FEWEST_TRAININGS = 3


@dataclass(frozen=True)
class HeldOut:
    """What became of the strongest pairs, over all targets and trainings held out in turn.

    Attributes:
        signs_held: share of pairs whose sign the training held out shares.
        stable: share of pairs whose sign the others call stable.
        stable_signs_held: the first, among those; none where there is no such pair.
        unstable_signs_held: the first, among the rest; none where there is no such pair.
        top_shared: share of the others' strongest proponents that are the held-out training's own.
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
    """The strongest rows of each target by all trainings but one, [t, top]."""

    place: NDArray[np.int64]
    score: Floats = field(init=False)
    error: Floats = field(init=False)
    held_out: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.score, self.error, self.held_out = (np.full(self.place.shape, np.nan) for _ in range(3))

    def take(self, start: int, scores: Floats, training: int) -> None:
        """Fill in what a block, [m, r, t], has of them: by all trainings but one, and by that one."""
        place = self.place
        target, rank = np.nonzero((place >= start) & (place < start + scores.shape[1]))
        found = scores[:, place[target, rank] - start, target]
        rest = np.delete(found, training, axis=0)
        self.score[target, rank] = rest.mean(0)
        self.error[target, rank] = standard_error(rest.std(0, ddof=1), len(rest))
        self.held_out[target, rank] = found[training]


@dataclass(frozen=True)
class Asked:
    """The strongest pairs of some targets by all trainings but one, each training left out in turn.

    Attributes:
        score, error: by the others, [pairs].
        held_out: the score by the one held out, [pairs].
        shared: of each target and training held out, the share of the others' strongest proponents that
            are its own.
    """

    score: Floats
    error: Floats
    held_out: Floats
    shared: Floats


def hold_out(blocks: Blocks, trainings: int, targets: int, top: int) -> Asked:
    """Hold each training out in turn.

    Args:
        blocks: gives the scores by training, from the first row on, each time that it is called.
        trainings: m, at least :data:`FEWEST_TRAININGS`.
        targets: t.
        top: how many proponents, and how many opponents, of each target to look at.
    """
    sides = (True, False)
    of_others = {
        (training, side): TopRows(targets, top, largest=side)
        for training in range(trainings)
        for side in sides
    }
    of_itself = [TopRows(targets, top, largest=True) for _ in range(trainings)]
    for start, scores in blocks():
        total = scores.sum(0)
        for training in range(trainings):
            mean = ((total - scores[training]) / (trainings - 1)).float()
            for side in sides:
                of_others[training, side].add(mean, start)
            of_itself[training].add(scores[training].float(), start)
    pairs = {key: _Pairs(rows.result().place) for key, rows in of_others.items()}
    for start, scores in blocks():
        for (training, _), found in pairs.items():
            found.take(start, scores.numpy(), training)
    shared = [
        float(np.isin(theirs, own).mean())
        for training in range(trainings)
        for theirs, own in zip(
            pairs[training, True].place, of_itself[training].result().place, strict=True
        )
    ]
    score, error, held_out = (
        np.concatenate([getattr(found, name).ravel() for found in pairs.values()])
        for name in ("score", "error", "held_out")
    )
    return Asked(score, error, held_out, np.array(shared))


def held(found: Sequence[Asked], trainings: int) -> HeldOut:
    """What became of the strongest pairs of all targets.

    Args:
        found: of groups of targets.
        trainings: that were held out.
    """
    score, error, held_out, shared = (
        np.concatenate([getattr(some, field.name) for some in found]) for field in fields(Asked)
    )
    same = np.sign(score) == np.sign(held_out)
    stable = sign_is_stable(score, error, students(trainings - 1))
    return HeldOut(
        signs_held=float(same.mean()),
        stable=float(stable.mean()),
        stable_signs_held=_share(same[stable]),
        unstable_signs_held=_share(same[~stable]),
        top_shared=float(np.mean(shared)),
        pairs=len(score),
    )


def _share(held: NDArray[np.bool_]) -> float | None:
    return float(held.mean()) if len(held) else None
