"""How suspicious a train row's label is, by its features. Pure functions of arrays, block by block.

For a train row x_i of class c, with one checkpoint's features φ and K with its ridge:

* its *self-influence* φ_iᵀ K⁻¹ φ_i: what it does for its own margin. A row that nothing else supports
  holds itself up.
* its *mean score* for the other rows of its class, φ_iᵀ K⁻¹ mean_{j≠i} φ_j: a row that argues against
  its own class hurts it;
* its *support*, the mean score over the root of the self-influence. That is a cosine but for a factor
  of its class, so that rows with small gradients, which neither help nor hurt, are judged as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standing:
    """Of n train rows, by one checkpoint. A row that is alone in its class has a mean score of zero.

    Attributes:
        self_influence: [n].
        mean_score: [n].
    """

    self_influence: Tensor
    mean_score: Tensor


def class_sums(blocks: Iterable[Tensor], labels: Tensor, classes: int) -> Tensor:
    """The sum of the features of each class, [c, k] in float64.

    Args:
        blocks: features of the train rows in order, [r, k] each.
        labels: their class numbers, [n].
        classes: c.
    """
    sums: Tensor | None = None
    start = 0
    for block in blocks:
        features = block.double()
        if sums is None:
            sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
        sums.index_add_(0, labels[start : start + len(block)], features)
        start += len(block)
    if sums is None:
        raise ValueError("there are no features")
    return sums


def standing(blocks: Iterable[Tensor], labels: Tensor, sums: Tensor, factor: Tensor) -> Standing:
    """Self-influence and mean score of every row.

    Args:
        blocks: features of the train rows in order, [r, k] each.
        labels: their class numbers, [n].
        sums: of :func:`class_sums`, [c, k].
        factor: Cholesky factor of K with its ridge, [k, k].
    """
    solved = torch.cholesky_solve(sums.T, factor)
    others = (torch.bincount(labels, minlength=len(sums)).double() - 1).clamp(min=1)
    own, scores = [], []
    start = 0
    for block in blocks:
        features, classes = block.double(), labels[start : start + len(block)]
        half = torch.linalg.solve_triangular(factor, features.T, upper=False)
        influence = half.square().sum(0)
        total = (features @ solved).gather(1, classes[:, None]).squeeze(1)
        own.append(influence)
        scores.append((total - influence) / others[classes])
        start += len(block)
    return Standing(torch.cat(own), torch.cat(scores))


def relative_support(mean_score: Tensor, self_influence: Tensor) -> Tensor:
    """The support of every row, [n]; zero where its features are."""
    return mean_score / self_influence.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
