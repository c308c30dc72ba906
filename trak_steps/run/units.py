"""The factor that brings a run's scores to their unit, their sums, and what chance would list."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN
from trak_steps.console.progress import progress, say
from trak_steps.kernel.blocks import CALIBRATED, OF_CHANCE
from trak_steps.run.layout import final_checkpoints
from trak_steps.run.scoring import Scoring
from trak_steps.scoring.chance import ListedByChance, without_own
from trak_steps.scoring.scores import Scorer, by_chance
from trak_steps.scoring.solve import Solved
from trak_steps.scoring.units import (
    means_of_trainings,
    scale_to_margins,
    sums_of_scores,
    unlearned_margin,
)
from trak_steps.store.features import TrainFeatures

# Train rows beside each other, of those that tell the unit.
TOGETHER = 16
# Rows of a target's list by chance.
LISTED = 20
# Of more train rows than this, so many show what chance would list, and the list is shorter by as much.
CHANCE_ROWS = 2**18
CHANCE_TOGETHER = 1024


def totals_of(scoring: Scoring, block_rows: int) -> list[Tensor]:
    """The sum of the train rows' features, weighted as their scores are, by each checkpoint, [k].

    Args:
        scoring: of the whole train set.
        block_rows: train rows to read at once.
    """
    if scoring.weights is None:
        return [torch.from_numpy(kernel.total()) for kernel in scoring.kernels]
    return weighted_totals(scoring.features, scoring.weights, block_rows)


def weighted_totals(features: Sequence[TrainFeatures], weights: Tensor, block_rows: int) -> list[Tensor]:
    """The sum of some rows' features by each checkpoint, [k], each row times its weight.

    Args:
        features: of the rows, by m checkpoints.
        weights: of the rows, [m, r].
        block_rows: rows to read at once.
    """
    zero = torch.zeros(features[0].dim, dtype=torch.float64)
    pairs = zip(features, weights, strict=True)
    return [sum(_weighted(of_train, own.double(), block_rows), zero) for of_train, own in pairs]


def _weighted(features: TrainFeatures, weights: Tensor, block_rows: int) -> Iterator[Tensor]:
    first = features.start
    for start in range(first, features.stop, block_rows):
        stop = min(start + block_rows, features.stop)
        own = weights[start - first : stop - first]
        yield own @ torch.from_numpy(features.features(start, stop)).double()


def weight_root(scoring: Scoring) -> float:
    """The root mean square of the weights of rows' scores: by how much they change their size."""
    if scoring.weights is None:
        return 1.0
    return float(scoring.weights.double().square().mean().sqrt())


def base_margin(settings: Settings, outputs: int) -> float:
    """The margin before anything was learnt; of a custom model output no one here knows it."""
    return unlearned_margin(outputs) if settings.features.model_output == BUILT_IN else 0.0


def calibrated(n: int) -> list[int]:
    """Places of train rows from all over the set, which may be sorted by label: groups of some."""
    if n <= CALIBRATED:
        return list(range(n))
    starts = np.linspace(0, n - TOGETHER, CALIBRATED // TOGETHER).astype(int).tolist()
    return [place for start in starts for place in range(start, start + TOGETHER)]


def solve_calibrated(scoring: Scoring, places: list[int]) -> Solved:
    """Train rows as targets.

    Args:
        scoring: of the whole train set.
        places: :func:`calibrated`.
    """
    firsts = range(0, len(places), TOGETHER)
    spans = [(places[i], places[min(i + TOGETHER, len(places)) - 1] + 1) for i in firsts]
    return scoring.solve(
        torch.from_numpy(np.concatenate([of.features(*span) for span in spans]))
        for of in scoring.features
    )


def scale_of(
    settings: Settings,
    outputs: int,
    scoring: Scoring,
    totals: list[Tensor],
    solved: Solved,
    places: list[int],
) -> float | None:
    """The factor of all scores of a run: the same for every target set.

    It is found by some train rows as targets, and by the margins that the ends of the
    trainings give them; none where their scores do not go with them.

    Args:
        settings: of the run.
        outputs: of the model.
        scoring: of the whole train set.
        totals: see :func:`totals_of`.
        solved: train rows as targets.
        places: of these.
    """
    of_checkpoints = sums_of_scores(solved.weights, totals).cpu()
    sums = means_of_trainings(of_checkpoints, scoring.trainings).mean(0)
    names = list(scoring.names)
    ends = [scoring.features[names.index(end)] for end in final_checkpoints(settings.checkpoints)]
    margins = np.stack([end.column("margin")[places] for end in ends]).mean(0, dtype=np.float64)
    scale = scale_to_margins(sums, torch.from_numpy(margins) - base_margin(settings, outputs))
    if scale is None:
        say(
            "warning: sums of scores do not go with the margins of train rows, so scores are not in "
            "units of margin; have the models learnt the train set?"
        )
    return scale


def signs_by_chance(
    scoring: Scoring, solved: Solved, places: list[int], block_rows: int
) -> dict[str, float] | None:
    """When the sign of a listed score is called stable; none of a single training.

    By some train rows as targets: what is off zero by chance alone is for targets of any set.

    Args:
        scoring: of the whole train set.
        solved: train rows as targets.
        places: of these.
        block_rows: train rows at once, a multiple of a cell's.
    """
    trainings = len(set(scoring.trainings))
    if trainings < 2:
        return None
    some = range(0, len(places), max(1, len(places) // OF_CHANCE))
    chosen = [places[i] for i in some]
    scorer = Scorer([of[list(some)] for of in solved.weights], scoring.trainings)
    spans = _spans(scoring.n)
    rows = sum(stop - start for start, stop in spans)
    listed = ListedByChance(len(chosen), max(1, round(LISTED * rows / scoring.n)))
    count = sum(-(-(stop - start) // block_rows) for start, stop in spans)
    blocks = scoring.blocks(block_rows, spans)
    for block in progress(blocks, total=count, label="by chance", unit="block"):
        own = (
            without_own(scores, block.start, chosen)
            for scores in scorer.of_trainings(block.features, block.weights)
        )
        listed.add(by_chance(own, trainings), block.start)
    return listed.signs(trainings)


def _spans(n: int) -> list[tuple[int, int]]:
    """All rows, or many from all over the set, from the first of a cell on."""
    if n <= CHANCE_ROWS:
        return [(0, n)]
    count = CHANCE_ROWS // CHANCE_TOGETHER
    starts = np.linspace(0, n // CHANCE_TOGETHER - 1, count).astype(int) * CHANCE_TOGETHER
    return [(start, start + CHANCE_TOGETHER) for start in starts.tolist()]
