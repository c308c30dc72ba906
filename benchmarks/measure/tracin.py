"""TracIn over the checkpoints of trainings (Pruthi et al. 2020, section 3.2: TracInCP).

It adds up, over a training's checkpoints, the products of the loss's gradients at the train row and at
the target, each checkpoint by the learning rate of the steps that led to it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.measure.ways import Checkpoint, fraction_of, fractions_of
from trak_steps.config.settings import FinetuneSettings
from trak_steps.model.schedule import step_of, training_steps
from trak_steps.run.layout import training_of


def tracin(checkpoints: Mapping[str, Checkpoint], rates: Mapping[str, float]) -> Tensor:
    """Scores [n, t], the mean of the trainings' own; positive where a row lowers the target's loss.

    The loss's gradient is −(1 − p) times the margin's, on both sides. So a target's own 1 − p says how
    much each checkpoint counts for it, and the two signs cancel: what lowers its loss raises its margin.

    Args:
        checkpoints: with plain gradients, by name.
        rates: the learning rate that led to each, by its fraction of the training.
    """
    parts = [
        rates[fraction_of(name)]
        * (checkpoint.weight[:, None] * (checkpoint.train @ checkpoint.targets.T))
        * checkpoint.target_weight
        for name, checkpoint in checkpoints.items()
    ]
    return torch.stack(parts).sum(0) / len(set(map(training_of, checkpoints)))


def learning_rate(step: int, *, steps: int, warmup: int) -> float:
    """The learning rate of a training's step, from 1, as a share of its peak: up, then down to 0."""
    done = step - 1
    if done < warmup:
        return done / warmup
    return (steps - done) / (steps - warmup)


def rates_before(names: Sequence[str], finetune: FinetuneSettings, n: int) -> dict[str, float]:
    """The mean learning rate of the steps between a checkpoint and the one before it, by fraction.

    Args:
        names: of the checkpoints.
        finetune: the recipe, for n rows.
        n: of the train set.
    """
    steps = training_steps(n, epochs=finetune.epochs, batch_size=finetune.batch_size)
    warmup = math.ceil(finetune.warmup_ratio * steps)
    fractions = fractions_of(names)
    ends = [0, *(step_of(float(fraction), steps) for fraction in fractions)]
    found = {}
    for fraction, (before, end) in zip(fractions, pairwise(ends), strict=True):
        taken = [learning_rate(step, steps=steps, warmup=warmup) for step in range(before + 1, end + 1)]
        found[fraction] = finetune.learning_rate * sum(taken) / len(taken)
    return found
