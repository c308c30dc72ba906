"""Sums of features over subsets: what every scoring predicts for a subset, without any n × t array.

A score is linear in the train row's features, so the sum of scores over a subset is the score of the
summed features. One pass over the features serves every ridge, every choice of checkpoints and k.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

Name = TypeVar("Name")


@dataclass(frozen=True)
class Sums(Generic[Name]):
    """Of one checkpoint's features over s subsets.

    Attributes:
        by_weight: Σ w_i φ(x_i) for each set of row weights, [s, k] each, by the set's name.
        units: Σ ±φ(x_i)/|φ(x_i)|, [s, k], with the signs of the loss weights.
    """

    by_weight: Mapping[Name, Tensor]
    units: Tensor


def sum_features(
    blocks: Iterable[tuple[int, NDArray[np.floating]]],
    kept: NDArray[np.bool_],
    weights: Mapping[Name, NDArray[np.floating]],
    signs: NDArray[np.floating] | None = None,
) -> Sums[Name]:
    """Sum features over subsets, in float64.

    Args:
        blocks: the place of its first row, and features [r, k], of each block of train rows.
        kept: the rows of each subset, [s, n].
        weights: of the train rows, sets of them by name, [n] each.
        signs: of the train rows' loss weights, ±1 [n]; all are 1 unless given.
    """
    by_weight: dict[Name, Tensor] = {}
    units: Tensor | None = None
    for start, block in blocks:
        features = torch.from_numpy(block).double()
        rows = slice(start, start + len(block))
        member = torch.from_numpy(kept[:, rows]).double()
        for name, given in weights.items():
            part = (member * torch.from_numpy(given[rows]).double()) @ features
            by_weight[name] = by_weight[name] + part if name in by_weight else part
        if signs is not None:
            member = member * torch.from_numpy(signs[rows]).double()
        part = member @ normalize(features)
        units = part if units is None else units + part
    if units is None:
        raise ValueError("there are no features")
    return Sums(by_weight, units)


def sum_rows(
    blocks: Iterable[tuple[int, NDArray[np.floating]]], kept: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Sum what is known of train rows over subsets, [s, c] in float64.

    Args:
        blocks: the place of its first row, and numbers [r, c], of each block of train rows.
        kept: the rows of each subset, [s, n].
    """
    parts = (kept[:, at : at + len(block)].astype(np.float64) @ block for at, block in blocks)
    total: NDArray[np.float64] = reduce(np.add, parts)
    return total


def fold(values: Tensor, dim: int) -> Tensor:
    """Features [r, k] at fewer dimensions, [r, dim]: k/dim parts of them, added up.

    What comes out keeps inner products on average, as a projection to ``dim`` does: buckets of a count
    sketch that are put together make a count sketch, and sums of random rows are random rows.
    """
    rows, k = values.shape
    if k % dim:
        raise ValueError(f"{k} dimensions cannot be folded to {dim}")
    if k == dim:
        return values
    return values.reshape(rows, k // dim, dim).sum(1)


def fold_kernel(kernel: Tensor, dim: int) -> Tensor:
    """The kernel [k, k] of features that were folded, [dim, dim]."""
    return fold(fold(kernel, dim).T, dim).T
