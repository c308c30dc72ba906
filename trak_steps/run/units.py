"""The factor that brings a run's scores to their unit, and what they add up to."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from trak_steps.config import Settings
from trak_steps.config.settings import BUILT_IN
from trak_steps.console.progress import say
from trak_steps.kernel.blocks import CALIBRATED
from trak_steps.run.layout import checkpoint_names, final_checkpoints, training_of
from trak_steps.scoring.solve import solve_targets
from trak_steps.scoring.units import (
    means_of_trainings,
    scale_to_margins,
    sums_of_scores,
    unlearned_margin,
)
from trak_steps.store.features import TrainFeatures
from trak_steps.store.kernel import KernelStore

# Train rows beside each other, of those that tell the unit.
TOGETHER = 16


def totals_of(
    features: Sequence[TrainFeatures], kernels: Sequence[KernelStore], weights: Tensor, block_rows: int
) -> list[Tensor]:
    """The sum of the train rows' features, weighted as their scores are, by each checkpoint, [k].

    Args:
        features: of m checkpoints.
        kernels: of these.
        weights: of each checkpoint's part in a row's score, [m, n].
        block_rows: train rows to read at once.
    """
    found = []
    for of_train, kernel, own in zip(features, kernels, weights, strict=True):
        if bool((own == 1).all()):
            found.append(torch.from_numpy(kernel.total()))
        else:
            parts = _weighted(of_train, own.double(), block_rows)
            found.append(sum(parts, torch.zeros(of_train.dim, dtype=torch.float64)))
    return found


def _weighted(features: TrainFeatures, weights: Tensor, block_rows: int) -> Iterator[Tensor]:
    for start in range(0, features.n, block_rows):
        stop = min(start + block_rows, features.n)
        yield weights[start:stop] @ torch.from_numpy(features.features(start, stop)).double()


def base_margin(settings: Settings, outputs: int) -> float:
    """The margin before anything was learnt; of a custom model output no one here knows it."""
    return unlearned_margin(outputs) if settings.features.model_output == BUILT_IN else 0.0


def _spread(n: int) -> list[tuple[int, int]]:
    """Places from and to of train rows from all over the set, which may be sorted by label."""
    if n <= CALIBRATED:
        return [(0, n)]
    starts = np.linspace(0, n - TOGETHER, CALIBRATED // TOGETHER).astype(int).tolist()
    return [(start, start + TOGETHER) for start in starts]


def scale_of(
    settings: Settings,
    outputs: int,
    features: Sequence[TrainFeatures],
    kernels: Sequence[KernelStore],
    totals: Sequence[Tensor],
    *,
    device: torch.device | None = None,
) -> float | None:
    """The factor of all scores of a run: the same for every target set.

    It is found by some train rows as targets, and by the margins that the ends of the
    trainings give them; none where their scores do not go with them.

    Args:
        settings: of the run.
        outputs: of the model.
        features: of all checkpoints.
        kernels: of these.
        totals: see :func:`totals_of`.
        device: where to solve.
    """
    spans = _spread(features[0].n)
    rows = (torch.from_numpy(np.concatenate([of.features(*span) for span in spans])) for of in features)
    solved = solve_targets(kernels, rows, features[0].n, alike=settings.scores.balance, device=device)
    names = checkpoint_names(settings.checkpoints)
    of_checkpoints = sums_of_scores(solved, totals).cpu()
    sums = means_of_trainings(of_checkpoints, [training_of(name) for name in names]).mean(0)
    ends = [features[names.index(name)] for name in final_checkpoints(settings.checkpoints)]
    margins = np.stack([end.column("margin") for end in ends]).mean(0, dtype=np.float64)
    chosen = np.concatenate([margins[slice(*span)] for span in spans])
    scale = scale_to_margins(sums, torch.from_numpy(chosen) - base_margin(settings, outputs))
    if scale is None:
        say(
            "warning: sums of scores do not go with the margins of train rows, so scores are not in "
            "units of margin; have the models learnt the train set?"
        )
    return scale
