"""What chance alone would list: how many standard errors such scores are off zero."""

from dataclasses import asdict

import numpy as np
from torch import Tensor

from trak_steps.scoring.scores import ScoreBlock
from trak_steps.scoring.top import TopRows
from trak_steps.scoring.uncertainty import stable_signs, standard_error


class ListedByChance:
    """The rows that chance alone would list for t targets, found while blocks go by.

    Args:
        targets: t.
        top: rows of a list, of each side.
    """

    def __init__(self, targets: int, top: int) -> None:
        self._sides = [TopRows(targets, top, largest=largest) for largest in (True, False)]

    def add(self, block: ScoreBlock, start: int) -> None:
        """Take what :func:`~.scores.by_chance` gives of the rows from the place ``start`` on."""
        # Of fewer rows than trainings none has another to be moved to.
        for side in self._sides if len(block.scores) else ():
            side.add(block.scores, start, block.std)

    def signs(self, trainings: int) -> dict[str, float]:
        """When the sign of a listed score is stable."""
        tops = [side.result() for side in self._sides]
        score = np.concatenate([top.score for top in tops])
        std = np.concatenate([values for top in tops for values in top.more] or [score])
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.abs(score) / standard_error(std, trainings)
        return asdict(stable_signs(off, trainings))


def without_own(scores: Tensor, start: int, places: list[int]) -> Tensor:
    """Scores [r, t] of rows from ``start`` on for targets that are train rows, with those for itself 0.

    A row's score for itself is no matter of chance. Written over.
    """
    for target, place in enumerate(places):
        if start <= place < start + len(scores):
            scores[place - start, target] = 0
    return scores
