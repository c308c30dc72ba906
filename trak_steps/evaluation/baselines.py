"""What different scorings predict for subsets, all from the same sums of features.

Every prediction is [s, t] in float64: for each subset and target the sum of the scores of the rows
that the subset holds. Pure functions of arrays.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize


def reference(sums: Tensor, kernel: Tensor, targets: Tensor) -> Tensor:
    """The same as `traker` 0.3.2 has it by default: no ridge, K⁻¹ over its mean absolute entry.

    Where K is singular, because there are fewer rows than dimensions, the pseudo-inverse stands for
    what the reference takes for an inverse then, which is noise; see :func:`reference_dim`.

    Args:
        sums: features summed over subsets with the loss weight as row weights, [s, k].
        kernel: K without ridge, [k, k].
        targets: features of the targets, [t, k].
    """
    inverse = torch.linalg.pinv(kernel, hermitian=True)
    scaled: Tensor = sums @ (inverse / inverse.abs().mean()) @ targets.double().T
    return scaled


def reference_dim(dim: int, n: int) -> int:
    """The k that the reference's rule is given: that of the features, if there are as many rows.

    With fewer rows, features are folded to the largest of k/2, k/4, … that is at most n/2: a baseline is
    the rule at a size that suits it, not noise. If k cannot be halved so far, it stays k.
    """
    halved = dim
    while n < dim and 2 * halved > n and halved % 2 == 0:
        halved //= 2
    return halved if 2 * halved <= n else dim


def gradient_dot(sums: Tensor, targets: Tensor) -> Tensor:
    """The inner product of gradients: TRAK without its kernel."""
    return sums @ targets.double().T


def cosine(units: Tensor, targets: Tensor) -> Tensor:
    """The cosine of features, from sums of features of unit length [s, k]."""
    return units @ normalize(targets.double()).T
