"""How suspicious a train row's label is, by its features. Pure functions of arrays, block by block.

For a train row x_i of class c, with one checkpoint's features φ and K with its ridge, and with
m_i = mean_{j≠i} φ_j over the other rows of its class:

* its *self-influence* φ_iᵀ K⁻¹ φ_i: what it does for its own margin. A row that nothing else supports
  holds itself up.
* its *mean score* for the other rows of its class, φ_iᵀ K⁻¹ m_i: a row that argues against its own
  class hurts it;
* its *support*, the cosine of φ_i and m_i in the metric of K⁻¹: the mean score over the roots of the
  self-influence and of m_iᵀ K⁻¹ m_i. The first leaves out how large the row's gradient is, so that rows
  that neither help nor hurt much are judged as well; the second how large those of its class are
  together, so that rows of all classes are on one scale, from -1 to 1.

Of several checkpoints, each of the three products is averaged: the support is then the cosine of their
features set side by side.

Its *trust* adds what the models themselves say of it, its mean margin over all checkpoints: gradients
and margins err on different rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Below this share of what it is the difference of, the square of a length is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Standing:
    """Of n train rows, by one checkpoint. For a row that is alone in its class, the last two are zero.

    Attributes:
        self_influence: [n].
        mean_score: [n].
        others: m_iᵀ K⁻¹ m_i, [n].
    """

    self_influence: Tensor
    mean_score: Tensor
    others: Tensor


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


def standing(
    blocks: Iterable[Tensor],
    labels: Tensor,
    sums: Tensor,
    factor: Tensor,
    sizes: Tensor | None = None,
) -> Standing:
    """Self-influence and mean score of every row, and what its support needs.

    Args:
        blocks: features of the train rows in order, [r, k] each.
        labels: their class numbers, [n].
        sums: of :func:`class_sums`, [c, k].
        factor: Cholesky factor of K with its ridge, [k, k].
        sizes: how many rows the sums of each class are of, [c], where these rows are not all of them.
    """
    solved = torch.cholesky_solve(sums.T, factor)
    squares = (sums.T * solved).sum(0)
    if sizes is None:
        sizes = torch.bincount(labels, minlength=len(sums))
    others = sizes.double() - 1
    own, scores, lengths = [], [], []
    start = 0
    for block in blocks:
        features, classes = block.double(), labels[start : start + len(block)]
        half = torch.linalg.solve_triangular(factor, features.T, upper=False)
        influence = half.square().sum(0)
        whole, count = squares[classes], others[classes].clamp(min=1)
        total = (features @ solved).gather(1, classes[:, None]).squeeze(1)
        square = whole - 2 * total + influence
        known = square > ROUNDING * (whole + influence)
        own.append(influence)
        scores.append(torch.where(known, total - influence, 0) / count)
        lengths.append(torch.where(known, square, 0) / count**2)
        start += len(block)
    return Standing(torch.cat(own), torch.cat(scores), torch.cat(lengths))


def relative_support(mean_score: Tensor, self_influence: Tensor, others: Tensor) -> Tensor:
    """The support of every row, [n]; zero where its features, or the mean of the others', are."""
    lengths = self_influence.sqrt() * others.sqrt()
    return torch.where(lengths > 0, mean_score / lengths, 0).clamp(-1, 1)


def trust(support: Tensor, margin: Tensor) -> Tensor:
    """Support and mean margin of every row, each in standard deviations from its mean, added up: [n]."""
    return _standard(support) + _standard(margin)


def _standard(values: Tensor) -> Tensor:
    centred = values - values.mean()
    return centred / centred.std(correction=0).clamp(min=torch.finfo(torch.float64).tiny)
